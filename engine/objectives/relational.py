"""Relational distillation: the samples of a batch lie to each other as they do for the teacher.

Park et al., "Relational Knowledge Distillation", CVPR 2019, sections 3.2.1 (distances) and 3.2.2 (angles).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distillery.errors import InvalidRequest
from distillery.spec.objectives import RelationalTerm
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.outputs import Outputs
from engine.precision import for_loss

_SMALLEST_SQUARE = 1e-12
_NO_LENGTH = 1e-12
_ELEMENTS_AT_ONCE = 2**24
"""Numbers in the largest tensors that the angles need: 64 MiB. All the angles of 1024 samples would take 4 GiB."""


def relative_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances between all samples, in units of their mean over different samples (ψ_D).

    `embeddings` [B, D] with B ≥ 2; result [B, B], 0 on the diagonal. No distance counts as smaller than 1e-6.
    """
    samples = len(embeddings)
    # Distances do not change with the origin; near the middle, less is lost to rounding in the difference below.
    centred = embeddings - embeddings.mean(dim=0)
    gram = centred @ centred.T
    lengths = gram.diagonal()
    squared = lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * gram
    # The square root has no gradient at 0, where equal embeddings are.
    distances = squared.clamp_min(_SMALLEST_SQUARE).sqrt()
    distances = distances.masked_fill(torch.eye(samples, dtype=torch.bool, device=distances.device), 0.0)
    return distances * (samples * (samples - 1) / distances.sum())


def distance_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the relative distances, its mean over all B² pairs. Embeddings [B, D_s] and [B, D_t]."""
    return functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


def angles(embeddings: Tensor, vertices: Tensor) -> Tensor:
    """cos of the angle between samples i and k, seen from each vertex (ψ_A): [V, B, B], V vertices, B samples.

    `embeddings` [B, D], `vertices` [V, D]. A sample that coincides with the vertex has no direction: its cosines are 0.
    """
    differences = embeddings - vertices.unsqueeze(1)
    lengths: Tensor = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    # Divided by a small number instead, two equal embeddings would have a gradient of 1e12.
    directions = differences / lengths.where(lengths > _NO_LENGTH, 1.0)
    return directions @ directions.transpose(1, 2)


def angle_divergence(student: Tensor, teacher: Tensor, *, elements_at_once: int = _ELEMENTS_AT_ONCE) -> Tensor:
    """Smooth L1 between the cosines of all triples, its mean over B³. Embeddings [B, D_s] and [B, D_t].

    At most about `elements_at_once` numbers are held of any step: where B³ or B²·D is more, some vertices are seen at
    a time and computed anew in the backward pass, since autograd would keep every one of them until then.
    """
    samples = len(student)
    at_once = max(1, elements_at_once // (samples * (samples + max(student.shape[1], teacher.shape[1]))))
    if at_once >= samples:
        return _angles_apart(student, teacher, student, teacher) / samples**3
    total = student.new_zeros(())
    for part in (slice(first, first + at_once) for first in range(0, samples, at_once)):
        # Reentrant checkpoints know no autograd.grad, by which the loop looks at each term's share of the gradient.
        total = total + checkpoint(
            _angles_apart, student, teacher, student[part], teacher[part], use_reentrant=False, preserve_rng_state=False
        )
    return total / samples**3


def _angles_apart(student: Tensor, teacher: Tensor, student_vertices: Tensor, teacher_vertices: Tensor) -> Tensor:
    seen, shown = angles(student, student_vertices), angles(teacher, teacher_vertices)
    return functional.smooth_l1_loss(seen, shown, reduction="sum")


def relational(
    student_features: Tensor, teacher_features: Tensor, *, distance_weight: float, angle_weight: float
) -> Tensor:
    """`distance_weight`·distance + `angle_weight`·angle of the flattened maps [B, C, H, W].

    The maps are alike only in B. Scalar, in float32; nothing flows back to the teacher.

    Raises:
        InvalidRequest: B is 1: a single sample has no distance to any other.
    """
    if len(student_features) < 2:
        raise InvalidRequest(
            "The term relational looks at distances and angles between the samples of a batch, and there is only one.",
            hint="Set training.batch_size to 3 or more, and train on more than one image.",
            pointer="/training/batch_size",
        )
    student, teacher = for_loss(student_features).flatten(1), for_loss(teacher_features).flatten(1).detach()
    return distance_weight * distance_divergence(student, teacher) + angle_weight * angle_divergence(student, teacher)


class Relational(nn.Module):
    """How the samples of a batch lie to each other, for the student and for the teacher, added up over pairs."""

    name: ClassVar[str] = "relational"
    needs_teacher: ClassVar[bool] = True
    compares_samples: ClassVar[bool] = True

    def __init__(self, spec: RelationalTerm, fitting: Fitting) -> None:
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)
        self.distance_weight = spec.distance_weight
        self.angle_weight = spec.angle_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"relational": scalar}`. Raises what `relational` raises."""
        if teacher is None:
            raise AssertionError("Relations need a teacher; the objective asks this term only when there is one.")
        each = [self._relational(student.features[p.student], teacher.features[p.teacher]) for p in self.pairs]
        return {self.name: torch.stack(each).sum()}

    def _relational(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relational(student, teacher, distance_weight=self.distance_weight, angle_weight=self.angle_weight)
