"""Similarity preserving: samples that look alike to the teacher look alike to the student.

Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, section 3.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.spec.objectives import SimilarityTerm
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.outputs import Outputs
from engine.precision import for_loss

_NO_LENGTH = 1e-12


def similarities(features: Tensor) -> Tensor:
    """The Gram matrix F·Fᵀ of the flattened maps, each row divided by its norm (G): [B, B], in float32.

    Maps [B, C, H, W]. The row of a sample without any activity is 0.
    """
    rows = for_loss(features).flatten(1)
    gram = rows @ rows.T
    norms: Tensor = torch.linalg.vector_norm(gram, dim=1, keepdim=True)
    # Divided by a small number instead, a silent sample would have a gradient of 1e12.
    return gram / norms.where(norms > _NO_LENGTH, 1.0)


def similarity(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """‖G_t - G_s‖²_F / B² (L_SP). Maps [B, C, H, W], alike only in B. Scalar, in float32.

    Raises:
        InvalidRequest: B is 1: a single sample is like itself whatever it looks like.
    """
    if len(student_features) < 2:
        raise InvalidRequest(
            "The term similarity compares the samples of a batch with each other, and there is only one.",
            hint="Set training.batch_size to 2 or more, and train on more than one image.",
            pointer="/training/batch_size",
        )
    return (similarities(teacher_features) - similarities(student_features)).square().mean()


class Similarity(nn.Module):
    """The student's table of which samples are alike against the teacher's, added up over pairs of layers."""

    name: ClassVar[str] = "similarity"
    needs_teacher: ClassVar[bool] = True
    compares_samples: ClassVar[bool] = True

    def __init__(self, spec: SimilarityTerm, fitting: Fitting) -> None:
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"similarity": scalar}`. Raises what `similarity` raises."""
        if teacher is None:
            raise AssertionError("Similarity needs a teacher; the objective asks this term only when there is one.")
        each = [similarity(student.features[p.student], teacher.features[p.teacher]) for p in self.pairs]
        return {self.name: torch.stack(each).sum()}
