"""Which network of the catalogue are these weights of? Told from the names and shapes of their tensors alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillery.errors import DistilleryError, UnusableWeights
from engine.taps import classifier
from engine.weights import require_fit
from models import build, catalog
from models.torchvision_stems import SMALL_SIDE

PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "network.", "state_dict.", "net.")
"""What wrappers put before every name: DataParallel, Lightning, torch.compile and others."""
_ASIDE = ("n_averaged",)
"""What wrappers keep beside the tensors of the network."""
_USUAL_CLASSES, _USUAL_CHANNELS = 10, 3
_MOST_NAMED = 3
_TORCHVISION = "torchvision/"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recognised:
    """A network that the tensors fill exactly."""

    architecture: str
    classes: int
    channels: int
    image_size: int
    """For which it is built; some networks have other first layers for small images."""


def renamed(shapes: Shapes) -> tuple[dict[str, str], tuple[str, ...]]:
    """For each tensor its name in the network, without the prefixes that all names share; and what was mended.

    Tensors that wrappers keep beside those of the network are left out.
    """
    names = {name: name for name in shapes if name not in _ASIDE}
    dropped: list[str] = []
    while prefix := next((each for each in PREFIXES if names and _all_begin(names, each)), ""):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
        dropped.append(prefix)
    notes = [f"The prefix '{''.join(dropped)}' of all tensor names was dropped."] if dropped else []
    aside = sorted(set(shapes) & set(_ASIDE))
    notes += [f"The tensor '{name}' was left out: it belongs to a wrapper." for name in aside]
    return names, tuple(notes)


def _all_begin(names: Mapping[str, str], prefix: str) -> bool:
    return all(short.startswith(prefix) and len(short) > len(prefix) for short in names.values())


def recognise(architecture: str, shapes: Shapes, *, image_size: int, source: str) -> Recognised:
    """The network of that name which the tensors fill, with classes and channels read from their shapes.

    Where they fit it only as it is built for another size of image, that of its catalogue row, this size is given.

    Raises:
        UnknownName: the catalogue has no such network.
        UnusableWeights: they do not fit; the hint names the networks that they do fit.
    """
    native = catalog.find(architecture, pointer="/architecture").input[1]
    refusal: DistilleryError | None = None
    for side in dict.fromkeys((image_size, native)):
        try:
            return _fit(architecture, shapes, image_size=side, source=source)
        except DistilleryError as error:
            refusal = refusal or error
    assert refusal is not None, "At least one size was tried."  # noqa: S101 - said by the loop above
    others = [each.architecture for each in matching(shapes, image_size=image_size)]
    if others:
        refusal.hint = f"These are the weights of {' or '.join(others[:_MOST_NAMED])}: name that architecture."
    refusal.pointer = "/architecture"
    raise refusal


def fits_both(found: Recognised, shapes: Shapes) -> bool:
    """Whether shapes cannot tell the first layers for small images from those for the native size, which differ."""
    row = catalog.find(found.architecture)
    if not row.name.startswith(_TORCHVISION) or not row.small_input or found.image_size > SMALL_SIDE:
        return False
    try:
        _fit(row.name, shapes, image_size=row.input[1], source="")
    except DistilleryError:
        return False
    return row.input[1] > SMALL_SIDE


def matching(shapes: Shapes, *, image_size: int) -> list[Recognised]:
    """Every network of the catalogue that the tensors fill exactly."""
    return list(_matching(shapes, image_size=image_size))


def _matching(shapes: Shapes, *, image_size: int) -> Iterator[Recognised]:
    modules = {name.rpartition(".")[0] for name in shapes} - {""}
    for row in catalog.ROWS:
        if not modules <= set(catalog.layers(row.name)):
            continue
        for side in dict.fromkeys((image_size, row.input[1])):
            try:
                found = _fit(row.name, shapes, image_size=side, source="")
            except DistilleryError:
                continue
            yield found
            break


def _fit(architecture: str, shapes: Shapes, *, image_size: int, source: str) -> Recognised:
    usual = _shell(architecture, classes=_USUAL_CLASSES, channels=_USUAL_CHANNELS, image_size=image_size)
    classes = _first(shapes, usual, classifier(usual), axis=0, otherwise=_USUAL_CLASSES)
    stem = next(each for each in usual.modules() if isinstance(each, nn.Conv2d))
    channels = _first(shapes, usual, stem, axis=1, otherwise=_USUAL_CHANNELS)
    if channels not in (1, 3):
        raise UnusableWeights(
            f"{source} reads images of {channels} channels; grey (1) and RGB (3) are known.", pointer="/architecture"
        )
    network = _shell(architecture, classes=classes, channels=channels, image_size=image_size)
    require_fit(network, shapes, source=source)
    return Recognised(architecture, classes, channels, image_size)


def _shell(architecture: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(architecture, classes=classes, image_size=image_size, channels=channels)


def _first(shapes: Shapes, network: nn.Module, module: Any, *, axis: int, otherwise: int) -> int:
    """The size of one axis of a layer's weights in the file."""
    path = next(path for path, each in network.named_modules() if each is module)
    shape = shapes.get(f"{path}.weight", ())
    return shape[axis] if len(shape) == module.weight.ndim and shape[axis] > 0 else otherwise


def stem_name(network: nn.Module) -> str:
    """The name of the weights of the first convolution, which reads the channels of the image."""
    return next(f"{path}.weight" for path, each in network.named_modules() if isinstance(each, nn.Conv2d))
