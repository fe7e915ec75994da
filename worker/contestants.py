"""The models of a benchmark as networks for its data: loaded, held against the classes, fed as they were trained."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from distillery.errors import DistilleryError, UnusableWeights
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.delivered import graph_of, network_of
from engine.latency.compare import Contestant
from engine.latency.several import Named
from engine.renormalised import Renormalised
from engine.weights import read_metadata
from worker.benchmark_plan import Plan, Planned
from worker.teacher_weights import require_classes


@dataclass(frozen=True)
class _Scale:
    """What images are brought to."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def contestants(plan: Plan, *, stored: Path | None) -> tuple[list[Named], Dataset, tuple[str, ...]]:
    """Every model as a network for the data, which is under the normalisation of the reference; and what to note.

    Raises:
        DistilleryError: the data cannot be read, or a model cannot be loaded for it; the pointer tells which.
    """
    if plan.spec.dataset is None:
        raise AssertionError("A resolved benchmark names its data.")
    dataset = load(plan.spec.dataset, stored=stored)
    scales = {}
    for place, model in enumerate(plan.models):
        with _pointed_at(place, model):
            scales[model.name] = _scale_of(model)
    first = scales[plan.spec.held_against] or next((each for each in scales.values() if each), None)
    if first is not None:
        dataset = replace(dataset, mean=first.mean, std=first.std)
    found, notes = [], []
    for place, model in enumerate(plan.models):
        with _pointed_at(place, model):
            network, note = _network(model, dataset=dataset, scale=scales[model.name])
        found.append(Named(model.name, Contestant(network, weights=model.file)))
        notes += note
    return found, dataset, tuple(notes)


@contextmanager
def _pointed_at(place: int, model: Planned) -> Iterator[None]:
    """Refusals name the model that is meant."""
    try:
        yield
    except DistilleryError as error:
        error.pointer = f"/models/{place}"
        told = error.detail.replace("The teacher", "It")  # most models are read to teach
        error.detail = f"'{model.name}' cannot be measured on this data. {told}"
        raise


def _scale_of(model: Planned) -> _Scale | None:
    """What the model was trained on, where it, or who brought it along, tells. None of a black box, which turns what it
    is given into what it expects."""
    if model.file.suffix == ".onnx":
        return None
    told = read_metadata(model.file)
    if "mean" in told and "std" in told:
        return _Scale(tuple(json.loads(told["mean"])), tuple(json.loads(told["std"])))
    if model.facts is None:
        return None
    return _Scale(model.facts.preprocessing.mean, model.facts.preprocessing.std)


def _network(model: Planned, *, dataset: Dataset, scale: _Scale | None) -> tuple[nn.Module, list[str]]:
    if model.file.suffix == ".onnx":
        return _black_box(model, dataset=dataset), []
    if model.file.suffix != ".safetensors":
        raise UnusableWeights(f"{model.file.suffix} holds no network that could be timed.", hint="Leave it out.")
    told = read_metadata(model.file)
    classes = model.facts.classes if model.facts else tuple(json.loads(told["classes"])) if "classes" in told else None
    require_classes(classes, dataset)
    network = network_of(model.file, dataset=dataset, otherwise=model.architecture)
    given = _Scale(tuple(dataset.mean), tuple(dataset.std))
    if scale is None or scale == given:
        return network, []
    wrapped = Renormalised(network, mean=given.mean, std=given.std, own_mean=scale.mean, own_std=scale.std)
    note = (
        f"'{model.name}' was trained on images of another normalisation than the reference; its time holds bringing "
        "them to that, one multiply-add for each number."
    )
    return wrapped.eval(), [note]


def _black_box(model: Planned, *, dataset: Dataset) -> nn.Module:
    require_classes(model.facts.classes if model.facts else None, dataset)
    return graph_of(
        model.file,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        channels=dataset.channels,
        mean=dataset.mean,
        std=dataset.std,
        preprocessing=model.facts.preprocessing if model.facts else None,
        outputs=model.facts.outputs if model.facts else "auto",
    )
