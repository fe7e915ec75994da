"""Where the stages of a torchvision network end: the last layer at each resolution, by name."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_TRUNKS = ("features", "layers", "trunk_output", "blocks")
"""What torchvision calls the part of a network whose children follow each other from shallow to deep."""
_NO_LAYERS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)
_SAME_STAGE = 0.7
"""A map above this share of the stage's first belongs to it: Inception's unpadded convolutions shave the edges."""
_STEM = 4
"""A map of more than a quarter of the image's side belongs to the stem."""
_DEPTHS = (1, 2, 3, 4)
"""A transformer whose maps never shrink is cut into four equal stages."""


def find(network: nn.Module, *, image_size: int) -> tuple[str, ...]:
    """Module paths of the ends of the stages, shallow to deep, of a network that lies on the meta device."""
    encoder = getattr(network, "encoder", None)
    if encoder is not None:
        paths = [f"encoder.layers.{name}" for name, _ in encoder.layers.named_children()]
        return tuple(paths[len(paths) * quarter // len(_DEPTHS) - 1] for quarter in _DEPTHS)
    ends: dict[int, str] = {}
    first = image_size
    for path, side in _sides(network, image_size=image_size):
        if side * _STEM > image_size:
            continue
        if side < first * _SAME_STAGE:
            first = side
        ends[first] = path
    return tuple(ends.values())


def _sides(network: nn.Module, *, image_size: int) -> Iterator[tuple[str, int]]:
    """Path and map height of each layer of the trunk, in the order of the computation."""
    trunk = next((name for name in _TRUNKS if hasattr(network, name)), "")
    parent = network.get_submodule(trunk)
    seen: list[tuple[str, int]] = []

    def note(path: str, result: object) -> None:
        if isinstance(result, Tensor) and result.ndim == 4:
            # A swin transformer puts the channels last: the height is the second dimension that repeats.
            seen.append((path, result.shape[2] if result.shape[2] == result.shape[3] else result.shape[1]))

    hooks = [
        child.register_forward_hook(lambda _module, _inputs, result, path=path: note(path, result))
        for path, child in ((f"{trunk}.{name}".lstrip("."), child) for name, child in parent.named_children())
        if not isinstance(child, _NO_LAYERS)
    ]
    try:
        with torch.no_grad():
            network.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    yield from seen
