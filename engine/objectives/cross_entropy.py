"""The hard target: cross-entropy with the labels."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import CrossEntropyTerm
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import for_loss


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -Σ q log softmax(logits), q = (1-s)·onehot + s/K. Scalar, in float32.

    `logits` [B, K], `labels` [B] int64. Label smoothing s: Szegedy et al. 2016, equation 7.
    """
    return functional.cross_entropy(for_loss(logits), labels, label_smoothing=label_smoothing)


class CrossEntropy(nn.Module):
    """The student's answers against the labels."""

    name: ClassVar[str] = "cross_entropy"
    needs_teacher: ClassVar[bool] = False

    def __init__(self, spec: CrossEntropyTerm) -> None:
        super().__init__()
        self.label_smoothing = spec.label_smoothing

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"cross_entropy": scalar}`; the teacher is not asked."""
        return {self.name: cross_entropy(student.logits, batch.labels, label_smoothing=self.label_smoothing)}
