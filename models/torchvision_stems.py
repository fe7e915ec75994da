"""The first layer of a torchvision network, fitted to the channels and to small images.

ImageNet networks throw away three quarters of the pixels, or fifteen sixteenths, before they look at them. Up to 64
pixels that costs most of the accuracy, so that here the first convolution steps by one and the pooling behind it goes,
as is usual for CIFAR (He et al. 2016, section 4.2).
"""

from dataclasses import dataclass

import torch
from torch import nn

SMALL_SIDE = 64
"""Images of this side, in pixels, and below get the gentler stem."""


@dataclass(frozen=True)
class Stem:
    """How a family's first convolution looks for small images, and which pooling is left out."""

    kernel: int = 3
    stride: int = 1
    dropped: str = ""


SMALL: dict[str, Stem] = {
    "convnext": Stem(),
    "densenet": Stem(dropped="features.pool0"),
    "efficientnet": Stem(),
    "googlenet": Stem(dropped="maxpool1"),
    "maxvit": Stem(),
    "mnasnet": Stem(),
    "mobilenetv2": Stem(),
    "mobilenetv3": Stem(),
    "regnet": Stem(),
    "resnet": Stem(dropped="maxpool"),
    "shufflenetv2": Stem(dropped="maxpool"),
    "squeezenet": Stem(),
    # Attention within 7x7 or 8x8 windows: at single pixels it would see nothing but its neighbourhood.
    "swin_transformer": Stem(kernel=2, stride=2),
}
"""By family. The others keep theirs: AlexNet, Inception and VGG are built around it, and a ViT is cut to fit."""


def fit(network: nn.Module, *, family: str, channels: int, image_size: int) -> None:
    """Change the first convolution of `network` where channels or size ask for it, and leave it alone otherwise."""
    path, first = next((path, each) for path, each in network.named_modules() if isinstance(each, nn.Conv2d))
    stem = SMALL.get(family) if image_size <= SMALL_SIDE else None
    if stem is not None:
        padding = stem.kernel // 2 if stem.stride == 1 else 0
        network.set_submodule(path, _like(first, channels, kernel=stem.kernel, stride=stem.stride, padding=padding))
        if stem.dropped:
            network.set_submodule(stem.dropped, nn.Identity())
    elif channels != first.in_channels:
        kernel, stride, padding = first.kernel_size[0], first.stride[0], int(first.padding[0])
        network.set_submodule(path, _like(first, channels, kernel=kernel, stride=stride, padding=padding))


def _like(old: nn.Conv2d, channels: int, *, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    """A convolution with fresh weights in the place of `old`, whose answers spread as widely as the old one's."""
    bias = old.bias is not None
    new = nn.Conv2d(channels, old.out_channels, kernel, stride=stride, padding=padding, bias=bias)
    fan_in = old.weight[0].numel() / new.weight[0].numel()
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * fan_in**0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    return new
