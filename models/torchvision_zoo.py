"""Every classification network of torchvision, as `torchvision/<its name there>`, with fresh weights.

At its native size and with three channels a network is exactly torchvision's own, so that its published weights fit.
Side heads, which only the original training used, are left out: `forward` always gives one tensor.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import nn

from distillery.errors import MissingDependency
from models import torchvision_patches as patches
from models import torchvision_stages, torchvision_stems
from models.traits import Traits

PREFIX = "torchvision/"


@cache
def names() -> tuple[str, ...]:
    """All that torchvision lists, in alphabetical order."""
    zoo = library()
    return tuple(PREFIX + name for name in sorted(zoo.list_models(module=zoo)))


def traits(name: str) -> Traits:
    """The native size is that of torchvision's default weights; the stages are found by looking at the maps."""
    short = name.removeprefix(PREFIX)
    side = int(library().get_model_weights(short).DEFAULT.transforms().crop_size[0])
    family = family_of(short)
    with torch.device("meta"):
        network = build(name, classes=10, image_size=side, channels=3)
    return Traits(
        family=family,
        input=(3, side, side),
        stages=torchvision_stages.find(network, image_size=side),
        small_input=family in torchvision_stems.SMALL or family in _PATCHED,
    )


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of `names()`, with its first layer fitted to the channels and, up to 64 pixels, to small images.

    Raises:
        InvalidRequest: the network cannot divide the image into its patches or windows.
        MissingDependency: torchvision is not installed.
    """
    short = name.removeprefix(PREFIX)
    family = family_of(short)
    network = _BUILDERS.get(family, _plain)(library(), short, classes=classes, image_size=image_size)
    torchvision_stems.fit(network, family=family, channels=channels, image_size=image_size)
    return network


def family_of(short: str) -> str:
    """The file of torchvision that holds the network: `resnet` for `wide_resnet50_2`."""
    builder = library().get_model_builder(short)
    return str(builder.__module__).rpartition(".")[2]


def library() -> ModuleType:
    """`torchvision.models`.

    Raises:
        MissingDependency: torchvision is not installed.
    """
    try:
        import torchvision.models
    except ImportError:
        raise MissingDependency(
            "torchvision is not installed.", hint="pip install torchvision, in the version that fits your torch."
        ) from None
    models: ModuleType = torchvision.models
    return models


def _plain(zoo: ModuleType, short: str, *, classes: int, image_size: int) -> nn.Module:
    network: nn.Module = zoo.get_model(short, weights=None, num_classes=classes)
    return network


def _without_side_heads(zoo: ModuleType, short: str, *, classes: int, image_size: int) -> nn.Module:
    network: nn.Module = zoo.get_model(short, weights=None, num_classes=classes, aux_logits=False, init_weights=True)
    return network


def _regnet(zoo: ModuleType, short: str, *, classes: int, image_size: int) -> nn.Module:
    # RegNet works out its widths with tensors, which must hold numbers even where the network itself holds none.
    with patches.PlansOnCpu():
        return _plain(zoo, short, classes=classes, image_size=image_size)


_PATCHED = {"vision_transformer": patches.vision_transformer, "maxvit": patches.maxvit}
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "googlenet": _without_side_heads,
    "inception": _without_side_heads,
    "regnet": _regnet,
    **_PATCHED,
}
