"""One network of the study of `objectives.py`, trained in a worker process, and scored on the test split at the end."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from objectives_plan import Task
from torch import Tensor, nn

from distillery.errors import TrainingDiverged
from distillery.spec.dataset import DatasetSpec
from distillery.spec.methods import DataFreeMethod, OnlineMethod, SelfDistillationMethod
from engine import environment, evaluate
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.sealed import sealed
from engine.exits import early_exit
from engine.lesson import Lesson
from engine.loop import Trained, train
from engine.precision import resolve_device, resolve_precision
from engine.strategies.online import state_of
from engine.weights import load_safetensors, save_safetensors
from worker import lessons, parts
from worker.lessons import Known
from worker.ready import Ready, loaded, seed_of


@dataclass
class Listener:
    """Keeps the warnings of a run; needs no checkpoints and never asks to stop."""

    warnings: list[str] = field(default_factory=list)

    def progress(self, **values: Any) -> None:
        """Ignored."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Ignored."""

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Ignored."""

    def stop_requested(self) -> bool:
        """Never."""
        return False


def leave_with_parent() -> None:
    """Called first in a worker process: it ends when the study does, however that ended."""
    parent = parent_process()
    if parent is None:
        raise AssertionError("Only a child process can leave with its parent.")

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def data_of(spec: DatasetSpec) -> Dataset:
    """The data, read once in each process."""
    return load(spec)


def weights_file(folder: Path, task_or_name: str, key: str) -> Path:
    """Where the weights of a network that teaches lie."""
    return folder / f"{task_or_name.replace(' ', '-')}-{key[:12]}.safetensors"


def trained(task: Task, *, folder: Path, teachers: Mapping[str, Path]) -> dict[str, Any]:
    """Train one network and score it; gives the line that is written down. `teachers` are files, by configuration."""
    ready = _ready(task)
    known = [Known(name.split()[1], _loaded(ready, name.split()[1], teachers[name])) for name in task.needs]
    began, busy = time.process_time(), environment.ProcessorTime.now()
    listener = Listener()
    told: dict[str, Any] = {"configuration": task.configuration, "run": task.run, "key": task.key}
    told |= {"seed": seed_of(ready, task.run), "spec": task.spec.model_dump(mode="json"), "failed": None}
    try:
        result = train(
            _lesson(task, ready, known),
            dataset=ready.dataset,
            recipe=ready.spec.training.model_copy(update={"seed": seed_of(ready, task.run)}),
            augment=ready.spec.dataset.augment,
            observer=listener,
        )
        told |= _pace(result, cpu_seconds=time.process_time() - began) | _scores(task, ready, result)
        if task.teaches:
            state = result.best if task.keeps == "best" else result.last
            save_safetensors(state, weights_file(folder, task.configuration, task.key), metadata={})
    except TrainingDiverged as error:
        told |= {"failed": str(error), "seconds": time.monotonic() - busy.wall}
    machine = environment.describe() | {"others_busy": environment.others_busy(busy)}
    return told | {"warnings": listener.warnings, "machine": machine}


def _ready(task: Task) -> Ready:
    training = task.spec.training
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    device = resolve_device(training.device)
    data = replace(data_of(task.spec.dataset), mean=task.mean, std=task.std)
    if isinstance(task.spec.method, DataFreeMethod):
        data = sealed(data)
    return Ready(task.spec, data.to(device), device, resolve_precision(training.precision, device), ())


def _loaded(ready: Ready, architecture: str, file: Path) -> nn.Module:
    network = lessons.fresh(ready, architecture)
    load_safetensors(network, file)
    return network.eval()


def _lesson(task: Task, ready: Ready, teachers: Sequence[Known]) -> Lesson:
    if task.how == "labels":
        return lessons.teaching(ready, task.learner, run=task.run)
    if task.how == "taught":
        return lessons.taught(ready, task.learner, teachers, run=task.run)
    return lessons.student(ready, teachers, run=task.run)


def _pace(result: Trained, *, cpu_seconds: float) -> dict[str, Any]:
    """How long training took, validation included and the final test left out."""
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "cpu_seconds": cpu_seconds,
        "images_per_second": result.images_per_second,
    }


def _scores(task: Task, ready: Ready, result: Trained) -> dict[str, Any]:
    """Accuracies from 0 to 1. The test split is read here, once for each network."""
    best = _student(task, ready, result.best)
    same = result.best_epoch == ready.spec.training.epochs
    tested = _tested(ready, best)
    return {
        "best": tested,
        "last": tested if same else _tested(ready, _student(task, ready, result.last)),
        "validation": result.best_validation,
        "best_epoch": result.best_epoch,
        "beside": dict(_beside(task, ready, result.best)),
    }


def _student(task: Task, ready: Ready, state: dict[str, Tensor]) -> nn.Module:
    return parts.student_of(ready, state) if task.how == "student" else loaded(ready, task.learner, state)


def _beside(task: Task, ready: Ready, state: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    """What else came out of the run: the exits of self-distillation, the peers of online training."""
    if task.how != "student":
        return
    if isinstance(ready.spec.method, SelfDistillationMethod):
        whole = parts.exits_of(ready, state)
        for number, stage in enumerate(whole.stages, 1):
            yield f"exit {number}, behind {stage}", _tested(ready, early_exit(whole, number).to(ready.device).eval())
    if isinstance(ready.spec.method, OnlineMethod):
        for name, spec in zip(lessons.peer_names(ready.spec)[1:], ready.spec.teachers, strict=True):
            peer = loaded(ready, spec.architecture, state_of(name, state))
            yield f"the peer {spec.architecture}, at the student's best epoch", _tested(ready, peer)


def _tested(ready: Ready, network: nn.Module) -> float:
    return evaluate.accuracy(parts.answers(ready, network), ready.dataset.test.labels.cpu())
