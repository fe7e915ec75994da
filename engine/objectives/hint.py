"""Hints: the student's maps, behind a trained regressor, equal the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3. Trained together with the other terms, not in
a stage of its own.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import HintTerm
from engine.adapters import adapter
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.outputs import Outputs
from engine.precision import for_loss


def hint(adapted: Tensor, teacher: Tensor) -> Tensor:
    """mean((r(f_s) - f_t)²) over all elements. Scalar, in float32; both maps are [B, C, H, W]."""
    return functional.mse_loss(for_loss(adapted), for_loss(teacher))


class Hint(nn.Module):
    """The student's maps against the teacher's at each pair of layers."""

    name: ClassVar[str] = "hint"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: HintTerm, fitting: Fitting) -> None:
        """
        Raises:
            InvalidRequest: a pair names a layer that was not looked at.
        """
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)
        self.adapters: Any = nn.ModuleList(adapter(*fitting.shapes(pair)) for pair in self.pairs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"hint": scalar}`, the sum over the pairs."""
        if teacher is None:
            raise AssertionError("Hints need a teacher; the objective asks this term only when there is one.")
        each = [
            hint(adapt(for_loss(student.features[pair.student])), teacher.features[pair.teacher])
            for pair, adapt in zip(self.pairs, self.adapters, strict=True)
        ]
        return {self.name: torch.stack(each).sum()}
