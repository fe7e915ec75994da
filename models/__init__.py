"""Neural networks by name: one family per file, and a torch-free catalogue of them all.

`build` imports torch when it is called; importing this package, or `models.catalog`, does not.
"""

from typing import TYPE_CHECKING

from distillery.errors import InvalidRequest
from models import catalog

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, classes: int, image_size: int, channels: int) -> "nn.Module":
    """A freshly drawn network: float32 images [B, channels, image_size, image_size] to logits [B, classes].

    It is made on torch's current default device, `meta` included.

    Raises:
        UnknownName: the catalogue has no such network; the hint names the nearest.
        InvalidRequest: the images are too small for the network, or of a side it cannot divide.
    """
    row = catalog.find(name)
    _require(name, classes=classes, channels=channels)
    if image_size < row.smallest:
        raise InvalidRequest(
            f"'{name}' cannot take images of {image_size}x{image_size} pixels: the smallest it works on is "
            f"{row.smallest}x{row.smallest}.",
            hint=f"Set 'image_size' of the dataset to {row.smallest} or more, or choose another architecture.",
        )
    from models.families import family_of

    return family_of(name).build(name, classes=classes, image_size=image_size, channels=channels)


def _require(name: str, *, classes: int, channels: int) -> None:
    for what, number in (("classes", classes), ("channels", channels)):
        if number < 1:
            raise InvalidRequest(f"'{name}' cannot be built for {number} {what}.", hint=f"Give at least one of {what}.")
