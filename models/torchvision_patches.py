"""torchvision networks whose make-up depends on the size of the image: ViT, MaxViT, and RegNet's planning."""

import math
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distillery.errors import InvalidRequest
from models.torchvision_stems import SMALL_SIDE

_VIT_NATIVE_SIDE = 224
_FEWEST_PATCHES, _MOST_PATCHES = 2, 32
"""Along one side. The cost of attention grows with the fourth power of it."""
_VITS: dict[str, tuple[int, dict[str, int]]] = {
    "vit_b_16": (16, {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}),
    "vit_b_32": (32, {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}),
    "vit_l_16": (16, {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096}),
    "vit_l_32": (32, {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096}),
    "vit_h_14": (14, {"num_layers": 32, "num_heads": 16, "hidden_dim": 1280, "mlp_dim": 5120}),
}
"""Side of a patch at 224 pixels, and the make-up that torchvision's own functions give them."""
_MAXVIT: dict[str, Any] = {
    "stem_channels": 64,
    "block_channels": [64, 128, 256, 512],
    "block_layers": [2, 2, 5, 2],
    "head_dim": 32,
    "stochastic_depth_prob": 0.2,
}
_SMALLEST_WINDOW, _LARGEST_WINDOW = 2, 8


def vision_transformer(zoo: ModuleType, short: str, *, classes: int, image_size: int) -> nn.Module:
    """A ViT. Where its patches do not fit the image, they shrink with it, so that about as many remain.

    Raises:
        InvalidRequest: the side has no divisor that could be a patch.
    """
    patch, makeup = _VITS[short]
    if image_size <= SMALL_SIDE or image_size % patch:
        patch = _fitting_patch(short, patch, image_size=image_size)
    network: nn.Module = zoo.VisionTransformer(image_size, patch, num_classes=classes, **makeup)
    return network


def _fitting_patch(short: str, native: int, *, image_size: int) -> int:
    wanted = native * image_size / _VIT_NATIVE_SIDE
    fitting = [
        side
        for side in range(1, image_size // _FEWEST_PATCHES + 1)
        if image_size % side == 0 and image_size // side <= _MOST_PATCHES
    ]
    if not fitting:
        raise InvalidRequest(
            f"'torchvision/{short}' cannot cut images of {image_size}x{image_size} pixels into even patches.",
            hint=f"Set 'image_size' to a multiple of {native}, such as {_multiple_near(image_size, native)}.",
        )
    return min(fitting, key=lambda side: abs(math.log(side / wanted)))


def maxvit(zoo: ModuleType, short: str, *, classes: int, image_size: int) -> nn.Module:
    """A MaxViT with windows that fit the image: 7x7 at its native 224 pixels.

    Raises:
        InvalidRequest: the last map, a 16th or a 32nd of the image, cannot be cut into windows.
    """
    small = image_size <= SMALL_SIDE
    reduction = 16 if small else 32
    last, remainder = divmod(image_size, reduction)
    windows = [side for side in range(_SMALLEST_WINDOW, _LARGEST_WINDOW + 1) if last % side == 0]
    if remainder or not windows:
        raise InvalidRequest(
            f"'torchvision/{short}' cannot cut images of {image_size}x{image_size} pixels into even windows.",
            hint="Set 'image_size' to 32, 48 or 64, or to 224 or another multiple of 64.",
        )
    # torchvision reckons with a first step of two; a small image's stem takes one, as if it were twice as large.
    side = image_size * (2 if small else 1)
    network: nn.Module = zoo.MaxVit((side, side), partition_size=windows[-1], num_classes=classes, **_MAXVIT)
    return network


def _multiple_near(number: int, factor: int) -> int:
    return max(factor * round(number / factor), factor * _FEWEST_PATCHES)


class PlansOnCpu(TorchFunctionMode):
    """Inside it, a range of numbers is made on the CPU, also when all other tensors are made on the `meta` device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        planned = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
        return func(*args, **{**planned, **(kwargs or {})})
