"""Weights of a network of the catalogue: fitted, mended where that is safe, and kept in our own form."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from distillery.views import Measured, ModelFacts
from engine.inspection.measure import measured
from engine.inspection.subject import Inspected, Subject
from engine.intake.weights_safetensors import read_header
from engine.recognise import Recognised, fits_both, matching, recognise, renamed, stem_name
from engine.weights import describe, load_state, save_safetensors
from models import build, count

FILE = "model.safetensors"
_MEDIA_TYPE = "application/vnd.safetensors"
_AMBIGUOUS = (
    "The shapes do not tell whether the first layer steps by one, as it does here for images of {size} pixels, or by "
    "two, as for large ones. If the network was trained on large images, give their image_size."
)


def inspect(subject: Subject) -> Inspected:
    """Weights in safetensors.

    Raises:
        UnknownName: the catalogue has no such architecture.
        UnusableWeights: they do not fit it, are not finite, or do not tell what they expect of an image.
    """
    header = read_header(subject.path)
    names, notes = renamed({name: head.shape for name, head in header.tensors.items()})
    shapes = {short: header.tensors[name].shape for name, short in names.items()}
    expects = _expected(subject, header.metadata)
    found, guessed = _recognised(subject, shapes, header.metadata, expects)
    if fits_both(found, shapes):
        guessed = (*guessed, _AMBIGUOUS.format(size=found.image_size))
    settled, scaled = _settled(expects, found)
    network = build(found.architecture, classes=found.classes, image_size=found.image_size, channels=found.channels)
    _fill(network, _state(subject, names), subject, expects)
    classes = subject.named_classes(found.classes, told=_told_classes(header.metadata))
    sha256, size = save_safetensors(
        network,
        subject.out / FILE,
        metadata=describe(
            architecture=found.architecture,
            classes=classes,
            image_size=settled.image_size,
            channels=settled.channels,
            mean=settled.mean,
            std=settled.std,
        ),
    )
    facts = ModelFacts(
        format="safetensors",
        architecture=found.architecture,
        classes=classes,
        preprocessing=settled,
        parameters=count.parameters(network),
        measured=_measured(network, subject, settled),
        notes=(*notes, *guessed, *scaled),
        file=FILE,
        sha256=sha256,
        size_bytes=size,
    )
    return Inspected(facts, subject.out / FILE, _MEDIA_TYPE)


def _expected(subject: Subject, metadata: Mapping[str, str]) -> Preprocessing:
    if subject.said.preprocessing is not None:
        return subject.said.preprocessing
    try:
        told = {name: json.loads(metadata[name]) for name in ("image_size", "channels", "mean", "std")}
        return Preprocessing.model_validate(told)
    except (KeyError, ValueError, RecursionError):
        raise InvalidRequest(
            f"{subject.named} does not tell what it expects of an image.",
            hint="Give image_size, mean and std of the preprocessing it was trained with.",
            pointer="/preprocessing",
        ) from None


def _told_classes(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    try:
        told: Any = json.loads(metadata.get("classes", ""))
    except (ValueError, RecursionError):
        return None
    whole = isinstance(told, list) and all(isinstance(each, str) and 0 < len(each) <= 200 for each in told)
    return tuple(told) if whole else None


def _recognised(
    subject: Subject, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], expects: Preprocessing
) -> tuple[Recognised, tuple[str, ...]]:
    told = subject.said.architecture or metadata.get("architecture", "")
    if told:
        found = recognise(told, shapes, image_size=expects.image_size, source=subject.named)
        return found, ()
    fitting = matching(shapes, image_size=expects.image_size)
    if len(fitting) != 1:
        names = ", ".join(each.architecture for each in fitting[:5])
        raise InvalidRequest(
            f"{subject.named} does not tell its architecture"
            + (f", and fits several: {names}." if fitting else ", and fits none of the catalogue."),
            hint="Name the architecture; `distillery architectures` lists all of them.",
            pointer="/architecture",
        )
    return fitting[0], (f"The architecture was told by the shapes: {fitting[0].architecture}.",)


def _settled(expects: Preprocessing, found: Recognised) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the network in our form expects: RGB divided by 255, a mean and a deviation for each channel."""
    notes = []
    if found.image_size != expects.image_size:
        notes.append(
            f"The first layers are those for images of {found.image_size} pixels, not of {expects.image_size}: the "
            f"network is used at {found.image_size}."
        )
    if expects.channel_order == "bgr" and found.channels == 3:
        notes.append("It was trained on BGR: its first layer was turned round, so that it reads RGB.")
    if expects.scale != 1:
        notes.append(f"Mean and deviation were divided by {expects.scale:g}, so that they are of pixels from 0 to 1.")
    mean, std = (_each(values, found.channels, name) for values, name in ((expects.mean, "mean"), (expects.std, "std")))
    if expects.channel_order == "bgr":
        mean, std = mean[::-1], std[::-1]
    settled = Preprocessing(
        image_size=found.image_size,
        channels=3 if found.channels == 3 else 1,
        mean=tuple(value / expects.scale for value in mean),
        std=tuple(value / expects.scale for value in std),
        interpolation=expects.interpolation,
    )
    return settled, tuple(notes)


def _each(values: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise InvalidRequest(
            f"The network reads {channels} channels, and {len(values)} values were given as '{name}'.",
            hint="Give one for each channel, or one for all.",
            pointer=f"/preprocessing/{name}",
        )
    return values * channels if len(values) == 1 else values


def _state(subject: Subject, names: Mapping[str, str]) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(subject.path, framework="pt") as file:
        return {short: file.get_tensor(name) for name, short in names.items()}


def _fill(network: nn.Module, state: dict[str, Tensor], subject: Subject, expects: Preprocessing) -> None:
    load_state(network, state, source=subject.named)
    if expects.channel_order == "bgr":
        stem = network.get_parameter(stem_name(network))
        with torch.no_grad():
            stem.copy_(stem.flip(1))
    network.eval()


def _measured(network: nn.Module, subject: Subject, settled: Preprocessing) -> Measured | None:
    data, spec = subject.dataset, subject.said.dataset
    if data is None or spec is None:
        return None
    if data.channels != settled.channels or data.image_size != settled.image_size:
        raise UnusableWeights(
            f"The network reads {settled.channels} channels at {settled.image_size} pixels, and the data has "
            f"{data.channels} at {data.image_size}.",
            hint="Measure it on data of its own channels and size.",
            pointer="/dataset",
        )
    return measured(network, data, spec=spec, mean=settled.mean, std=settled.std)
