"""Neural networks: one family per file, and a torch-free catalogue."""

from typing import TYPE_CHECKING

from distillery.errors import InvalidRequest
from models import catalog

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, classes: int, image_size: int, channels: int) -> "nn.Module":
    """A network of the catalogue with fresh weights, drawn from PyTorch's generator.

    It turns float32 images [B, channels, image_size, image_size] into logits [B, classes].

    Raises:
        UnknownName: the catalogue has no such network.
        InvalidRequest: the images are too small for it.
    """
    row = catalog.find(name)
    if image_size < row.smallest:
        raise InvalidRequest(
            f"{name} reads images of at least {row.smallest} pixels; the data has {image_size}.",
            hint=f"Set dataset.image_size to {row.smallest} or more, or choose another architecture.",
            pointer="/dataset/image_size",
        )
    from models.families import FAMILIES

    return FAMILIES[row.family].build(name, classes=classes, image_size=image_size, channels=channels)
