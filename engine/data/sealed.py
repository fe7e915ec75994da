"""A data set that nobody may learn from: for runs that promise not to read it."""

from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor

from engine.data.dataset import Dataset, Split
from engine.data.images import Images


def sealed(dataset: Dataset) -> Dataset:
    """The same data set, whose splits for training and validation refuse to be read; that for the test stays open.

    Reading their images, labels, ids or length raises an AssertionError. Moving them to a device does nothing.
    """
    return replace(dataset, train=SealedSplit("training"), validation=SealedSplit("validation"), unlabelled=None)


class SealedSplit(Split):
    """A split without content, in place of one that must not be read."""

    _name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    @property
    def images(self) -> Images:
        """Refused."""
        self._refuse("images")

    @property
    def labels(self) -> Tensor:
        """Refused."""
        self._refuse("labels")

    @property
    def ids(self) -> Tensor:
        """Refused."""
        self._refuse("ids")

    def __len__(self) -> int:
        self._refuse("length")

    def to(self, device: torch.device | str) -> "SealedSplit":
        """Itself: there is nothing to move."""
        return self

    def __repr__(self) -> str:
        return f"SealedSplit({self._name!r})"

    def _refuse(self, what: str) -> NoReturn:
        raise AssertionError(
            f"This run promises not to read the {self._name} split, and something asked for its {what}."
        )
