"""The registry of network families. A new family is one file with these three functions, and its name here."""

from typing import Protocol

from torch import nn

from models import resnet_cifar, seed_cnn, torchvision_zoo, wide_resnet
from models.traits import Traits


class Family(Protocol):
    """What every family's module offers."""

    def names(self) -> tuple[str, ...]:
        """Its networks, as the catalogue calls them."""

    def traits(self, name: str) -> Traits:
        """Facts about one of them."""

    def build(self, name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
        """One of them, with fresh weights: images [B, channels, image_size, image_size] to logits [B, classes]."""


FAMILIES: tuple[Family, ...] = (seed_cnn, resnet_cifar, wide_resnet, torchvision_zoo)


def family_of(name: str) -> Family:
    """The family that builds the network of that name, which must be in the catalogue."""
    return next(family for family in FAMILIES if name in family.names())
