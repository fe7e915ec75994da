"""What a term of an objective must know of the two networks and the data before it can be made: shapes, layers, labels.

Everything comes from one dry forward on real images, so that a pair that does not fit is refused before training.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.spec.objectives import LayerPair, Pairs
from engine.evaluate import evaluating
from engine.taps import EMBEDDING, tapped

_NEGATIVE = -1e-6
"""As a share of the largest value: the maps of a fresh deep network can be very small."""


@dataclass(frozen=True)
class Feature:
    """What one layer gives for one image, as a map."""

    channels: int
    size: int
    """Side of the square map in pixels; 1 for a vector."""
    signed: bool
    """Whether any of its values was below zero; not so behind a ReLU."""

    def __str__(self) -> str:
        return f"{self.channels}x{self.size}x{self.size}"


@dataclass(frozen=True)
class Surveyed:
    """The layers of one network that were looked at."""

    features: Mapping[str, Feature]
    stages: tuple[str, ...]
    """Of these, the ends of the stages, shallow to deep."""


@dataclass(frozen=True, eq=False)
class Fitting:
    """One student, one teacher and the data between which a term is fitted."""

    student: Surveyed
    teacher: Surveyed
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """int64 [n], of the training images."""
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """int64 [n], likewise, each once."""

    def pairs(self, wanted: Pairs) -> tuple[LayerPair, ...]:
        """The pairs of layers that `wanted` means for these two networks, shallow to deep.

        Raises:
            InvalidRequest: a named layer is none of those looked at.
        """
        if not isinstance(wanted, str):
            for pair in wanted:
                _require(pair.student, self.student, "student")
                _require(pair.teacher, self.teacher, "teacher")
            return wanted
        self._require_seen(wanted)
        if wanted == "embedding":
            return (LayerPair(student=EMBEDDING, teacher=EMBEDDING),)
        every = tuple(paired(self.student, self.teacher))
        if wanted == "auto":
            return every
        return (every[(len(every) - 1) // 2 if wanted == "middle" else -1],)

    def _require_seen(self, wanted: str) -> None:
        """A black box shows only what it gives out: pairs by a rule need stages, or an embedding, on both sides."""
        if self.teacher.stages if wanted != "embedding" else EMBEDDING in self.teacher.features:
            return
        shown = ", ".join(self.teacher.features)
        raise InvalidRequest(
            "The teacher is a black box, and shows no such layers to learn from.",
            hint=f"Name the pairs, with one of its outputs as the teacher's layer: {shown}."
            if shown
            else "Leave out the terms that read layers, or export the teacher with more outputs.",
        )

    def shapes(self, pair: LayerPair) -> tuple[Feature, Feature]:
        """What student and teacher give at the two layers of a pair.

        Raises:
            InvalidRequest: one of the layers was not looked at.
        """
        return _feature(self.student, pair.student, of="student"), _feature(self.teacher, pair.teacher, of="teacher")


def _feature(network: Surveyed, layer: str, *, of: str) -> Feature:
    if layer not in network.features:
        known = ", ".join(network.features) or "none: it is a black box"
        raise InvalidRequest(f"The {of} was not asked for a layer '{layer}'.", hint=f"It was asked for {known}.")
    return network.features[layer]


def _require(layer: str, seen: Surveyed, whose: str) -> None:
    if layer not in seen.features:
        raise InvalidRequest(
            f"There is no layer '{layer}' of the {whose} to read.",
            hint=f"There are {', '.join(seen.features) or 'none: it is a black box that shows no layers'}.",
        )


def survey(
    network: nn.Module,
    images: Tensor,
    *,
    stages: Sequence[str],
    layers: Sequence[str] = (),
    embedding: bool = True,
) -> Surveyed:
    """Look at the stages, the embedding and `layers` of a network while it reads `images`, float32 [B, C, H, W].

    Without `embedding` it is left out, as of a black box, whose last linear layer nobody sees.

    The network is asked in evaluation mode and left as it was.

    Raises:
        InvalidRequest: it has no such layer, or a layer gives nothing that can be read as a square map.
    """
    names = tuple(dict.fromkeys((*stages, *((EMBEDDING,) if embedding else ()), *layers)))
    with evaluating(network), torch.no_grad():
        found = tapped(network, images, names).features
    features = {}
    for name, value in found.items():
        if value.shape[2] != value.shape[3]:
            shape = tuple(value.shape[1:])
            raise InvalidRequest(f"The layer '{name}' gives {shape}, which is no square map.", hint="Name another.")
        signed = bool(value.min() < _NEGATIVE * value.abs().max())
        features[name] = Feature(value.shape[1], value.shape[2], signed)
    return Surveyed(features, tuple(stages))


def paired(student: Surveyed, teacher: Surveyed) -> Iterator[LayerPair]:
    """For each stage of the student the stage of the teacher that is nearest in resolution (octaves) and depth."""
    for place, layer in enumerate(student.stages):
        depth, size = (place + 1) / len(student.stages), student.features[layer].size
        distances = [
            abs(math.log2(size / teacher.features[other].size)) + abs(depth - (at + 1) / len(teacher.stages))
            for at, other in enumerate(teacher.stages)
        ]
        yield LayerPair(student=layer, teacher=teacher.stages[distances.index(min(distances))])
