"""Soft targets: the student imitates the teacher's softened answers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2. Standardised logits: Sun et
al., "Logit Standardization in Knowledge Distillation", CVPR 2024, algorithm 1. Several teachers weighted by confidence:
Zhang et al., "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, equations 2 to 4.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import SoftTargetsTerm
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import for_loss

_STANDARD_EPSILON = 1e-7
_EQUAL = 1e-6
"""Logits that differ by a smaller share of their size are equal."""


def soft_targets(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T²·(1/B)·Σ KL(softmax(z_t/T) ‖ softmax(z_s/T)). Scalar, in float32; both logits are [B, K].

    T² keeps the gradient's size the same at every temperature, since that of the KL shrinks as 1/T². The mean is per
    sample (`batchmean`): kl_div's own `mean` divides by the number of classes too.
    """
    student = functional.log_softmax(for_loss(student_logits) / temperature, dim=1)
    teacher = functional.log_softmax(for_loss(teacher_logits) / temperature, dim=1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) of each sample, [B, K], in float32: an affine map of the logits changes nothing.

    The deviation is the population's. Logits that are equal up to rounding are only centred: they say nothing, and the
    formula would blow their rounding up, and its gradient with it.
    """
    z = for_loss(logits)
    centred = z - z.mean(dim=1, keepdim=True)
    size = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    varies = size > _EQUAL * torch.linalg.vector_norm(z, dim=1, keepdim=True)
    deviation: Tensor = (size / z.shape[1] ** 0.5 + _STANDARD_EPSILON).where(varies, 1.0)
    return centred / deviation


def mixed_soft_targets(
    student_logits: Tensor, teachers_logits: Tensor, shares: Tensor, *, temperature: float
) -> Tensor:
    """T²·(1/B)·Σ KL(Σ_m s_m softmax(z_m/T) ‖ softmax(z_s/T)): the divergence from the mean of several answers.

    `student_logits` [B, K], `teachers_logits` [M, B, K], `shares` [M, B] that add up to 1 over M. Scalar, in float32.
    """
    student = functional.log_softmax(for_loss(student_logits) / temperature, dim=1)
    each = functional.log_softmax(for_loss(teachers_logits) / temperature, dim=2)
    mixed = torch.logsumexp(each + for_loss(shares).log().unsqueeze(2), dim=0)
    divergence = functional.kl_div(student, mixed, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def weighed_soft_targets(
    student_logits: Tensor, teachers_logits: Tensor, shares: Tensor, *, temperature: float
) -> Tensor:
    """T²·(1/B)·Σ_m s_m KL(softmax(z_m/T) ‖ softmax(z_s/T)): the mean of the divergences from several answers.

    Shapes as in `mixed_soft_targets`; the gradient is the same, the value is larger by how far the teachers disagree.
    """
    student = functional.log_softmax(for_loss(student_logits) / temperature, dim=1)
    each = functional.log_softmax(for_loss(teachers_logits) / temperature, dim=2)
    divergences = (each.exp() * (each - student)).sum(dim=2)
    return (for_loss(shares) * divergences).sum(dim=0).mean() * temperature**2


class SoftTargets(nn.Module):
    """The student's softened answers against the teacher's."""

    name: ClassVar[str] = "soft_targets"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: SoftTargetsTerm) -> None:
        super().__init__()
        self.temperature = spec.temperature
        self.standardize = spec.standardize

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"soft_targets": scalar}`. Of several teachers, the merge says what they are together."""
        if teacher is None:
            raise AssertionError("Soft targets need a teacher; the objective asks this term only when there is one.")
        z = self._seen(student.logits)
        if teacher.shares is None:
            return {self.name: soft_targets(z, self._seen(teacher.logits), temperature=self.temperature)}
        each = torch.stack([self._seen(member.logits) for member in teacher.members])
        together = weighed_soft_targets if teacher.merge == "confidence" else mixed_soft_targets
        return {self.name: together(z, each, teacher.shares, temperature=self.temperature)}

    def _seen(self, logits: Tensor) -> Tensor:
        return standardized(logits) if self.standardize else logits
