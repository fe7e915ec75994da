"""Soft targets: the student imitates the teacher's softened answers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import SoftTargetsTerm
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import for_loss


def soft_targets(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T²·(1/B)·Σ KL(softmax(z_t/T) ‖ softmax(z_s/T)). Scalar, in float32; both logits are [B, K].

    T² keeps the gradient's size the same at every temperature, since that of the KL shrinks as 1/T². The mean is per
    sample (`batchmean`): kl_div's own `mean` divides by the number of classes too.
    """
    student = functional.log_softmax(for_loss(student_logits) / temperature, dim=1)
    teacher = functional.log_softmax(for_loss(teacher_logits) / temperature, dim=1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class SoftTargets(nn.Module):
    """The student's softened answers against the teacher's."""

    name: ClassVar[str] = "soft_targets"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: SoftTargetsTerm) -> None:
        super().__init__()
        self.temperature = spec.temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"soft_targets": scalar}`."""
        if teacher is None:
            raise AssertionError("Soft targets need a teacher; the objective asks this term only when there is one.")
        return {self.name: soft_targets(student.logits, teacher.logits, temperature=self.temperature)}
