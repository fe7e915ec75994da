"""Knowledge review: each level of the teacher is matched by all the student's levels from the deepest up to it.

Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3: attention-based fusion (ABF) and the
hierarchical context loss (HCL), with the weights of the authors' code.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.spec.objectives import LayerPair, ReviewTerm
from engine.adapters import Norm
from engine.data.views import Batch
from engine.fitting import Feature, Fitting
from engine.outputs import Outputs
from engine.precision import for_loss
from engine.taps import EMBEDDING

MOST_CHANNELS = 512
_GRIDS = (4, 2, 1)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_g w_g mean((pool_g(f_s) - pool_g(f_t))²) / Σ_g w_g: mean squared error at several resolutions. HCL.

    Both maps are [B, C, H, H]. They are compared as they are, with weight 1, and averaged onto those grids of 4x4, 2x2
    and 1x1 that are smaller, each with half the weight of the one before. Scalar, in float32.
    """
    ours, theirs = for_loss(student), for_loss(teacher)
    total, weight, weights = functional.mse_loss(ours, theirs), 1.0, 1.0
    for grid in _GRIDS:
        if grid < ours.shape[-1]:
            weight /= 2
            weights += weight
            pooled = functional.adaptive_avg_pool2d(ours, grid), functional.adaptive_avg_pool2d(theirs, grid)
            total = total + weight * functional.mse_loss(*pooled)
    return total / weights


class Fusion(nn.Module):
    """One level: the student's map and what was fused at the deeper levels, weighed against each other per pixel."""

    def __init__(self, student: Feature, teacher: Feature, *, channels: int, deepest: bool) -> None:
        super().__init__()
        self.size, self.teacher_size = student.size, teacher.size
        self.entry = nn.Sequential(_convolution(student.channels, channels, side=1), Norm(channels))
        self.exit = nn.Sequential(_convolution(channels, teacher.channels, side=3), Norm(teacher.channels))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * channels, 2, 1), nn.Sigmoid())

    def forward(self, maps: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map [B, C_t, H_t, H_t] to compare with the teacher's, and the fused one [B, channels, H_t, H_t].

        `maps` [B, C_s, H_s, H_s] are the student's, `deeper` [B, channels, H, H] is the fused map of the level below.
        """
        fused: Tensor = self.entry(maps)
        if self.attention is not None and deeper is not None:
            resized = _resized(deeper, self.size)
            own, other = self.attention(torch.cat((fused, resized), dim=1)).split(1, dim=1)
            fused = own * fused + other * resized
        fused = _resized(fused, self.teacher_size)
        return self.exit(fused), fused


def _convolution(channels: int, width: int, *, side: int) -> nn.Conv2d:
    made = nn.Conv2d(channels, width, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(made.weight, a=1)
    return made


def _resized(maps: Tensor, size: int) -> Tensor:
    """By repeating or leaving out pixels: [B, C, H, H] to [B, C, size, size]."""
    return maps if maps.shape[-1] == size else functional.interpolate(maps, size=(size, size), mode="nearest")


class Review(nn.Module):
    """The student's fused maps against the teacher's at each pair of layers."""

    name: ClassVar[str] = "review"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: ReviewTerm, fitting: Fitting) -> None:
        """Layers chosen by a rule get the embedding as the deepest level; a list of pairs, shallow to deep, stands.

        Raises:
            InvalidRequest: a pair names a layer that was not looked at.
        """
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)
        embedding = LayerPair(student=EMBEDDING, teacher=EMBEDDING)
        if isinstance(spec.pairs, str) and embedding not in self.pairs:
            self.pairs = (*self.pairs, embedding)
        shapes = [fitting.shapes(pair) for pair in self.pairs]
        channels = spec.channels or min(MOST_CHANNELS, shapes[-1][0].channels)
        self.fusions: Any = nn.ModuleList(
            Fusion(*shape, channels=channels, deepest=place == len(shapes) - 1) for place, shape in enumerate(shapes)
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"review": scalar}`, the sum over the levels."""
        if teacher is None:
            raise AssertionError("A review needs a teacher; the objective asks this term only when there is one.")
        each: list[Tensor] = []
        fused: Tensor | None = None
        for pair, fusion in zip(reversed(self.pairs), reversed(self.fusions), strict=True):
            matched, fused = fusion(for_loss(student.features[pair.student]), fused)
            each.append(hierarchical_context(matched, teacher.features[pair.teacher]))
        return {self.name: torch.stack(each).sum()}
