"""The teacher's weights: those of a file, or trained here first. Of a drawn network every form gives the same answers,
so that eight bits would look faithful in a contest and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.contest import networks, ours
from benchmarks.contest.images import Arrays
from benchmarks.contest.task import Task
from distillery.spec.objectives import CrossEntropyTerm
from distillery.spec.training import CosineSchedule
from engine import evaluate
from engine.data.dataset import Dataset
from engine.loop import train
from engine.objectives import build as build_objective
from engine.strategies.offline import Offline

_VARIANT = ours.Variant("teacher", "auto")


@dataclass(frozen=True)
class Weights:
    """A file for `Task.teacher_weights`, and where it comes from."""

    file: str
    told: str


def named(given: list[str]) -> dict[str, str]:
    """`NAME=FILE` of the command line, by name.

    Raises:
        SystemExit: something else was given, or the file is not there.
    """
    found = dict(each.partition("=")[::2] for each in given)
    for name, file in found.items():
        if not file:
            raise SystemExit(f"--teacher-weights takes NAME=FILE, such as resnet56=weights.th, and not '{name}'.")
        if not Path(file).is_file():
            raise SystemExit(f"--teacher-weights: there is no file '{file}'.")
    return found


def weights(task: Task, arrays: Arrays, *, given: Mapping[str, str], epochs: int, folder: Path) -> Weights:
    """The file that was given for the teacher, else one that is made by training it on the images."""
    dataset = ours.as_dataset(arrays, name="teacher")
    if file := given.get(task.teacher):
        network = networks.teacher(replace(task, teacher_weights=file), arrays)
        return Weights(file, f"the weights of {Path(file).name}, {_right(network, dataset, device=task.device)}")
    network = networks.teacher(task, arrays)
    recipe = ours.recipe(replace(task, epochs=epochs), _VARIANT).model_copy(update={"schedule": CosineSchedule()})
    lesson = Offline(network, objective=build_objective((CrossEntropyTerm(weight=1.0),)), teacher=None)
    train(lesson, dataset=dataset, recipe=recipe, augment=ours.AUGMENT, observer=ours.Silent())
    path = folder / f"{task.teacher}.pt"
    torch.save({name: each.cpu() for name, each in network.state_dict().items()}, path)
    right = _right(network, dataset, device=task.device)
    return Weights(str(path), f"trained here on {len(arrays.y_train):,} images for {epochs} epochs, {right}")


def scored(network: nn.Module, dataset: Dataset, *, device: str) -> float:
    """Accuracy on the test images, from 0 to 1."""
    there, data = torch.device(device), dataset.to(device)
    logits = evaluate.predict(
        network.to(there), data.test, mean=data.mean, std=data.std, device=there, channels_last=False
    )
    return evaluate.accuracy(logits, data.test.labels.cpu())


def _right(network: nn.Module, dataset: Dataset, *, device: str) -> str:
    return f"{scored(network, dataset, device=device):.1%} right on {len(dataset.test.labels):,} test images"
