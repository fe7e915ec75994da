"""Which views of a split are shown in an epoch, and a number for each of them.

A view that has a number can be recognised: what a teacher says of it once need never be asked again. Shown is either
every view that the augmentation can draw, anew each time, or a set of V views of each image, the same for every job.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engine.data.cuts import Views, drawn, padding
from engine.data.draws import draws_of


class ViewSet(ABC):
    """The views of N images, in planes that hold one view of each image."""

    def __init__(self, count: int, *, image_size: int, augment: Sequence[str]) -> None:
        self.count, self.image_size, self.augment = count, image_size, tuple(augment)

    @property
    @abstractmethod
    def planes(self) -> int:
        """How many views of an image there are."""
        ...

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What decides which view a number stands for; how many there are does not."""
        ...

    @abstractmethod
    def views(self, rows: Tensor, *, seed: int, epoch: int, batch: int) -> tuple[Views, Tensor]:
        """The views of a batch of `rows`, int64 [B] on the CPU, and the plane of each."""
        ...

    def cells(self, rows: Tensor, planes: Tensor) -> Tensor:
        """The numbers of the views of `rows` in `planes`, int64 [B]: from 0 to planes * N - 1."""
        return planes * self.count + rows


class EveryView(ViewSet):
    """Whatever the augmentation can draw, drawn from (seed, epoch, batch)."""

    @property
    def planes(self) -> int:
        """All places of the cut, mirrored and not: 162 for 32 pixels."""
        return distinct(image_size=self.image_size, augment=self.augment)

    @property
    def facts(self) -> dict[str, Any]:
        """The augmentation alone."""
        return {"kind": "every", "augment": sorted(self.augment)}

    def views(self, rows: Tensor, *, seed: int, epoch: int, batch: int) -> tuple[Views, Tensor]:
        """Drawn anew."""
        generator = draws_of("view", seed, epoch, batch)
        made = drawn(len(rows), image_size=self.image_size, augment=self.augment, generator=generator)
        side = 2 * made.pad + 1
        planes = made.corner[0] * side + made.corner[1]
        return made, planes if made.mirrored is None else planes * 2 + made.mirrored


class DrawnViews(ViewSet):
    """`planes` views of each image, drawn once and for all; epoch e shows plane e modulo `planes`.

    So each epoch of the first `planes` shows views that none before it did, as with `EveryView`, and later ones show
    them again in another order. A larger set begins with the views of a smaller one.
    """

    def __init__(self, count: int, *, planes: int, image_size: int, augment: Sequence[str]) -> None:
        super().__init__(count, image_size=image_size, augment=augment)
        self._planes = planes

    @property
    def planes(self) -> int:
        """As many as were asked for."""
        return self._planes

    @property
    def facts(self) -> dict[str, Any]:
        """The augmentation, and that the views are drawn from the plane's number."""
        return {"kind": "drawn", "augment": sorted(self.augment)}

    def views(self, rows: Tensor, *, seed: int, epoch: int, batch: int) -> tuple[Views, Tensor]:
        """Those of the epoch's plane, whatever the seed."""
        plane = epoch % self._planes
        made = _plane(plane, self.count, self.image_size, self.augment)
        return made.of(rows), torch.full_like(rows, plane)


@lru_cache(maxsize=2)
def _plane(plane: int, count: int, image_size: int, augment: tuple[str, ...]) -> Views:
    """One view of each image. Kept while an epoch asks for them batch by batch."""
    return drawn(count, image_size=image_size, augment=augment, generator=draws_of("views", plane))


def view_set(views: int | None, *, count: int, image_size: int, augment: Sequence[str]) -> ViewSet:
    """`views` views of each of `count` images, or every view for None and where there are no more than `views`."""
    if views is None or views >= distinct(image_size=image_size, augment=augment):
        return EveryView(count, image_size=image_size, augment=augment)
    return DrawnViews(count, planes=views, image_size=image_size, augment=augment)


def distinct(*, image_size: int, augment: Sequence[str]) -> int:
    """How many views of an image the augmentation can draw."""
    return (2 * padding(image_size, augment=augment) + 1) ** 2 * (2 if "flip" in augment else 1)
