"""Variational information distillation: the student predicts the teacher's maps, each channel with its own variance.

Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, section 2: the lower bound on the
mutual information, with a Gaussian whose variances are softplus(rho) + ε.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import VidTerm
from engine.data.views import Batch
from engine.fitting import Feature, Fitting
from engine.outputs import Outputs
from engine.precision import for_loss

SMALLEST_VARIANCE = 1e-5


def vid(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """mean(½((f_t - μ)²/σ² + log σ²)) over all elements: the negative log-likelihood of the teacher's maps.

    `mean` and `teacher` [B, C, H, W], `variance` [C] above 0. Scalar, in float32; below 0 where σ² is small.
    """
    spread = for_loss(variance)[:, None, None]
    return 0.5 * ((for_loss(teacher) - for_loss(mean)).square() / spread + spread.log()).mean()


class Prediction(nn.Module):
    """What the student says of the teacher's map at one pair of layers: a mean and, per channel, a variance."""

    def __init__(self, student: Feature, teacher: Feature, *, initial_variance: float) -> None:
        super().__init__()
        width = teacher.channels
        self.size = min(student.size, teacher.size)
        self.regressor = nn.Sequential(
            nn.Conv2d(student.channels, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )
        # A start at or below the smallest variance would leave the softplus nothing to give.
        above = max(initial_variance, 2 * SMALLEST_VARIANCE) - SMALLEST_VARIANCE
        # The inverse of the softplus, in the form that cannot overflow.
        self.rho = nn.Parameter(torch.full((width,), above + math.log(-math.expm1(-above))))

    def variance(self) -> Tensor:
        """σ² of each channel, [C]."""
        return functional.softplus(self.rho) + SMALLEST_VARIANCE

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of the teacher's map [B, C_t, H_t, H_t] given the student's [B, C_s, H_s, H_s].

        The larger of the two is averaged down to the size of the smaller.
        """
        mean = self.regressor(functional.adaptive_avg_pool2d(for_loss(student), self.size))
        return vid(mean, functional.adaptive_avg_pool2d(for_loss(teacher), self.size), self.variance())


class Vid(nn.Module):
    """How badly the student predicts the teacher's maps, at each pair of layers."""

    name: ClassVar[str] = "vid"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: VidTerm, fitting: Fitting) -> None:
        """
        Raises:
            InvalidRequest: a pair names a layer that was not looked at.
        """
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)
        self.predictions: Any = nn.ModuleList(
            Prediction(*fitting.shapes(pair), initial_variance=spec.initial_variance) for pair in self.pairs
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"vid": scalar}`, the sum over the pairs."""
        if teacher is None:
            raise AssertionError("VID needs a teacher; the objective asks this term only when there is one.")
        each = [
            prediction(student.features[pair.student], teacher.features[pair.teacher])
            for pair, prediction in zip(self.pairs, self.predictions, strict=True)
        ]
        return {self.name: torch.stack(each).sum()}
