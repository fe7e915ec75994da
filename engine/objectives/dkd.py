"""Decoupled distillation: the label against all else, and all else among itself, each with a weight of its own.

Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, sections 3.1 and 3.3. Soft targets are TCKD + (1 - p_y)·NCKD
of each sample, p_y the teacher's: so one that is sure of the label says next to nothing about the rest.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import DkdTerm
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import for_loss


def target_divergence(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """TCKD (section 3.1): T²·(1/B)·Σ KL(b_t ‖ b_s), b = [p_y, 1 - p_y], p = softmax(z/T). Scalar, in float32.

    Logits [B, K] of at least two classes, `labels` [B] int64.
    """
    student, _ = _decoupled(student_logits, labels, temperature=temperature)
    teacher, _ = _decoupled(teacher_logits, labels, temperature=temperature)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def non_target_divergence(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float
) -> Tensor:
    """NCKD (section 3.1): T²·(1/B)·Σ KL(q_t ‖ q_s), q = softmax(z/T) over the K - 1 classes that are not the label.

    Shapes as in `target_divergence`. Scalar, in float32; 0 for two classes, where only one is left.
    """
    _, student = _decoupled(student_logits, labels, temperature=temperature)
    _, teacher = _decoupled(teacher_logits, labels, temperature=temperature)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    non_target_weight: float,
) -> Tensor:
    """`target_weight`·TCKD + `non_target_weight`·NCKD (section 3.3). Shapes as in `target_divergence`."""
    target = target_divergence(student_logits, teacher_logits, labels, temperature=temperature)
    others = non_target_divergence(student_logits, teacher_logits, labels, temperature=temperature)
    return target_weight * target + non_target_weight * others


def _decoupled(logits: Tensor, labels: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """log b [B, 2] and log q [B, K-1].

    The label's logit is left out of the others, not lowered by a large number, and 1 - p_y is the sum of the others:
    so neither logarithm ever sees a rounded 0.
    """
    z, target = for_loss(logits) / temperature, labels.unsqueeze(1)
    places = torch.arange(z.shape[1] - 1, device=z.device)
    others = z.gather(1, places + (places >= target))
    binary = torch.cat((z.gather(1, target), others.logsumexp(dim=1, keepdim=True)), dim=1)
    return functional.log_softmax(binary, dim=1), functional.log_softmax(others, dim=1)


class Dkd(nn.Module):
    """The student's softened answers against the teacher's, split at the label."""

    name: ClassVar[str] = "dkd"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: DkdTerm) -> None:
        super().__init__()
        self.temperature = spec.temperature
        self.target_weight = spec.target_weight
        self.non_target_weight = spec.non_target_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"dkd": scalar}`."""
        if teacher is None:
            raise AssertionError("DKD needs a teacher; the objective asks this term only when there is one.")
        value = dkd(
            student.logits,
            teacher.logits,
            batch.labels,
            temperature=self.temperature,
            target_weight=self.target_weight,
            non_target_weight=self.non_target_weight,
        )
        return {self.name: value}
