"""The families of networks: a new file is one line here, and its rows in the catalogue."""

from typing import Protocol

from torch import nn

from models import resnet_cifar, seed_cnn, torchvision_zoo, wide_resnet


class Family(Protocol):
    """A module that builds networks by name."""

    def build(self, name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
        """One of its networks with fresh weights."""

    def native_input(self, name: str) -> tuple[int, int, int]:
        """Channels, height, width."""


FAMILIES: dict[str, Family] = {
    "seed_cnn": seed_cnn,
    "resnet_cifar": resnet_cifar,
    "wide_resnet": wide_resnet,
    "torchvision_zoo": torchvision_zoo,
}
