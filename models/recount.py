"""python -m models.recount

Builds every network on PyTorch's meta device and writes `catalog.csv` anew: parameters, multiply-adds, the smallest
image, the stages. Run it after a new architecture, or when torchvision brings new ones.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distillery.errors import InvalidRequest
from models import resnet_cifar, seed_cnn, torchvision_zoo, wide_resnet
from models.catalog import FIELDS
from models.count import multiply_adds, parameters
from models.families import FAMILIES

_CLASSES = 10
_SIDES = (4, 8, 16, 24, 28, 32, 48, 64, 75, 96, 112, 128, 160, 192, 224, 299, 518)


def main() -> None:
    """Write the catalogue."""
    rows = []
    for family, name in _names():
        rows.append(describe(family, name))
        sys.stdout.write(f"{name}: {rows[-1]['parameters']:,} parameters\n")
    with Path(__file__).with_name("catalog.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _names() -> Iterator[tuple[str, str]]:
    for family, names in (
        ("seed_cnn", seed_cnn.NAMES),
        ("resnet_cifar", resnet_cifar.NAMES),
        ("wide_resnet", wide_resnet.NAMES),
        ("torchvision_zoo", torchvision_zoo.names()),
    ):
        yield from ((family, name) for name in names)


def describe(family: str, name: str) -> dict[str, Any]:
    """The catalogue's row of one network, from the network itself."""
    channels, height, width = FAMILIES[family].native_input(name)
    network = on_meta(family, name, image_size=height, channels=channels)
    return {
        "name": name,
        "family": family,
        "input": f"{channels}x{height}x{width}",
        "parameters": parameters(network),
        "macs": multiply_adds(network, channels=channels, image_size=height),
        "smallest": smallest(family, name),
        "stages": " ".join(_stages(family, name, network, side=height)),
    }


def on_meta(family: str, name: str, *, image_size: int, channels: int = 3) -> nn.Module:
    """The network's shapes, without memory for its weights."""
    with _NothingDrawn():
        network = FAMILIES[family].build(name, classes=_CLASSES, image_size=image_size, channels=channels)
    return network.to("meta")


class _NothingDrawn(TorchFunctionMode):
    """Leaves weights unwritten: memory that nobody writes to is never taken, however large the network.

    The meta device itself will not do, because the RegNets compute their widths with tensors while they are built.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.erfinv_, Tensor.clamp_):
            return args[0]
        return func(*args, **(kwargs or {}))


def smallest(family: str, name: str) -> int:
    """The least of the tried sides at which a training batch goes through; one with fixed windows keeps its own."""
    if name in torchvision_zoo.FIXED_WINDOWS:
        return FAMILIES[family].native_input(name)[1]
    for side in _SIDES:
        try:
            on_meta(family, name, image_size=side).train()(torch.empty(2, 3, side, side, device="meta"))
        except (RuntimeError, ValueError, InvalidRequest):
            continue
        return side
    raise AssertionError(f"{name} reads no image at all.")


def _stages(family: str, name: str, network: nn.Module, *, side: int) -> tuple[str, ...]:
    if family == "torchvision_zoo":
        return torchvision_zoo.stages_of(network, image=torch.empty(1, 3, side, side, device="meta"))
    own: Any = FAMILIES[family]
    return tuple(own.stages(name))


if __name__ == "__main__":
    main()
