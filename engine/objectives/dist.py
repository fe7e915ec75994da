"""Correlation in place of equality: the student need only rank classes, and samples, as the teacher does.

Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 3.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import InvalidRequest
from distillery.spec.objectives import DistTerm
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import for_loss

_EPSILON = 1e-8
_ROUNDING = 1e-6
"""What varies by no more than this share of its size is taken for constant: float32 can tell no better."""


def pearson(first: Tensor, second: Tensor, *, dim: int) -> Tensor:
    """Σ ab / (‖a‖·‖b‖ + 1e-8) along `dim`, a and b less their means: -1 to 1, in float32. 0 where either is constant.

    Two tensors of one shape; the result lacks `dim`. An affine map of either with a positive factor changes nothing,
    as long as the product of the norms stays far above 1e-8.
    """
    (a, varies_a), (b, varies_b) = _centred(first, dim=dim), _centred(second, dim=dim)
    lengths = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    # Equal logits, as of a classifier that starts at zero, would otherwise have a gradient of 1e8.
    divisors: Tensor = (lengths + _EPSILON).where(varies_a & varies_b, 1.0)
    return (a * b).sum(dim=dim) / divisors


def _centred(values: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """`values` less their mean along `dim`, and where that is more than rounding."""
    x = for_loss(values)
    centred = x - x.mean(dim=dim, keepdim=True)
    varies = torch.linalg.vector_norm(centred, dim=dim) > _ROUNDING * torch.linalg.vector_norm(x, dim=dim)
    return centred, varies


def inter_class(student_answers: Tensor, teacher_answers: Tensor) -> Tensor:
    """1 - the mean over samples of the correlation over classes (L_inter). Answers [B, K]; scalar, in float32."""
    return 1 - pearson(student_answers, teacher_answers, dim=1).mean()


def intra_class(student_answers: Tensor, teacher_answers: Tensor) -> Tensor:
    """1 - the mean over classes of the correlation over samples (L_intra). Answers [B, K]; scalar, in float32.

    Raises:
        InvalidRequest: B is 1: a single sample correlates with nothing.
    """
    if len(student_answers) < 2:
        raise InvalidRequest(
            "The term dist correlates the samples of a batch, and there is only one.",
            hint="Set training.batch_size to 2 or more, and train on more than one image.",
            pointer="/training/batch_size",
        )
    return 1 - pearson(student_answers, teacher_answers, dim=0).mean()


def dist(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, inter_weight: float, intra_weight: float
) -> Tensor:
    """τ²·(`inter_weight`·inter + `intra_weight`·intra) of softmax(z/τ). Logits [B, K]; scalar, float32.

    Raises:
        InvalidRequest: B is 1.
    """
    student = functional.softmax(for_loss(student_logits) / temperature, dim=1)
    teacher = functional.softmax(for_loss(teacher_logits) / temperature, dim=1)
    inter, intra = inter_class(student, teacher), intra_class(student, teacher)
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


class Dist(nn.Module):
    """The student's softened answers, correlated with the teacher's within each sample and within each class."""

    name: ClassVar[str] = "dist"
    needs_teacher: ClassVar[bool] = True
    compares_samples: ClassVar[bool] = True

    def __init__(self, spec: DistTerm) -> None:
        super().__init__()
        self.temperature = spec.temperature
        self.inter_weight = spec.inter_weight
        self.intra_weight = spec.intra_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"dist": scalar}`. Raises what `dist` raises."""
        if teacher is None:
            raise AssertionError("DIST needs a teacher; the objective asks this term only when there is one.")
        value = dist(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            inter_weight=self.inter_weight,
            intra_weight=self.intra_weight,
        )
        return {self.name: value}
