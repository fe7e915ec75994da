"""What a reader gives: labelled images as they lie in the files, before splits are drawn and sizes changed."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.errors import UnreadableData

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Part:
    """The N images of one split of the files."""

    labels: Tensor
    """int64 [N]."""
    pixels: Callable[[Tensor], Tensor]
    """Reads the images of the given rows (int64 [n]): uint8 [n, C, H, W]. Nothing else is decoded."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Source:
    """Everything that one data set's files say."""

    name: str
    classes: tuple[str, ...]
    channels: int
    height: int
    """Pixels; of images that `pixels` gives."""
    width: int
    train: Part
    validation: Part | None = None
    test: Part | None = None
    notes: tuple[str, ...] = ()


def in_memory(images: Tensor, labels: Tensor) -> Part:
    """A part whose images, uint8 [N, C, H, W], have been read already."""
    return Part(labels=labels, pixels=lambda rows: images.index_select(0, rows))


def class_names(labels: Sequence[Tensor], *, names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The names of the classes, after checking that the labels (training part first) count from 0 without gaps.

    `names` are the known ones; without them the classes are called by their numbers.

    Raises:
        UnreadableData: naming `where`, when a class has no training image or a label has no class.
    """
    known = torch.unique(labels[0]).tolist()
    twice = [name for name, times in Counter(names or ()).items() if times > 1]
    if twice:
        raise UnreadableData(f"{where}: two classes are called '{twice[0]}'.", hint="Give each class its own name.")
    count = len(names) if names is not None else len(known)
    if known != list(range(count)):
        raise UnreadableData(
            f"{where}: the training labels are {_shown(known)}; expected every number from 0 to {count - 1}"
            f"{' (one for each class name)' if names is not None else ''}.",
            hint="Number the classes from 0 without gaps, and give each at least one training image.",
        )
    for part in labels[1:]:
        strange = sorted(set(torch.unique(part).tolist()) - set(known))
        if strange:
            raise UnreadableData(
                f"{where}: the labels {_shown(strange)} occur outside the training images only.",
                hint="Every class needs at least one training image.",
            )
    return tuple(names) if names is not None else tuple(str(number) for number in range(count))


def _shown(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return f"{shown}, ... {numbers[-1]} ({len(numbers)} different ones)" if len(numbers) > _SHOWN else shown
