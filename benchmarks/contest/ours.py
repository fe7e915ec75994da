"""`engine.loop.train` itself, in each of the ways that it can be asked to train."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from benchmarks.contest import images, networks
from benchmarks.contest.gate import Gate
from benchmarks.contest.task import ENDLESS, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task
from distillery.spec.objectives import CrossEntropyTerm, SoftTargetsTerm
from distillery.spec.training import ConstantSchedule, Sgd, Training
from engine.data.dataset import Dataset, Split
from engine.data.views import Batch
from engine.lesson import Lesson
from engine.loop import train
from engine.objectives import build as build_objective
from engine.precision import resolve_device, resolve_precision
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, Teacher

_HELD_BACK = 2
"""Images that the loop validates on, because it must; they are nobody's training images."""


@dataclass(frozen=True)
class Variant:
    """One way to train. A new one is a line of `VARIANTS`."""

    name: str
    precision: Literal["auto", "fp32"]
    twin: str = ""
    """The variant that it equals where `auto` takes fp32."""
    asks_teacher: bool = True
    """Whether the teacher computes in the steady state; if not, its operations do not count towards the floor."""

    def dataset(self, task: Task, dataset: Dataset) -> Dataset:
        """The views that the student sees: without limit."""
        return dataset

    def teacher(self, task: Task, arrays: images.Arrays, dataset: Dataset) -> Teacher:
        """What answers them."""
        return FrozenTeacher(networks.teacher(task, arrays))

    def warm_steps(self, task: Task, dataset: Dataset) -> int:
        """Steps until its pace is the one that it keeps."""
        return 3


VARIANTS = (
    Variant("live fp32", "fp32"),
    Variant("live", "auto", twin="live fp32"),
)
AUGMENT = ("crop", "flip")


def variant(contender: str) -> Variant:
    """The one that `ours: <name>` means."""
    name = contender.partition(": ")[2]
    found = next((each for each in VARIANTS if each.name == name), None)
    if found is None:
        raise SystemExit(f"No variant is called '{name}'. There are {', '.join(each.name for each in VARIANTS)}.")
    return found


class Silent:
    """An observer that listens to nothing and never asks to stop."""

    def progress(self, **values: Any) -> None:
        """Ignored."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Ignored."""

    def warning(self, message: str) -> None:
        """Ignored."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Ignored."""

    def stop_requested(self) -> bool:
        """Never."""
        return False


class Gated(Silent):
    """Lets the loop wait for its turn after each step, and knows which of its questions come after a step."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._pending = gate, 0

    def count_batches_of(self, lesson: Lesson) -> None:
        """Have each batch counted as the loop takes it: it asks whether to stop while it validates too."""
        given = lesson.batches

        def counted(*args: Any, **named: Any) -> Iterator[Batch]:
            for batch in given(*args, **named):
                self._pending = len(batch.labels)
                yield batch

        lesson.batches = counted  # type: ignore[method-assign]

    def stop_requested(self) -> bool:
        """Never, but the answer may take a while."""
        if self._pending:
            self._gate.step(self._pending)
        self._pending = 0
        return False


def run(task: Task, gate: Gate) -> None:
    """All jobs of the task, one after another, with one teacher."""
    chosen, arrays = variant(task.contender), images.read(task.images)
    dataset = chosen.dataset(task, as_dataset(arrays, name="contest"))
    teacher = chosen.teacher(task, arrays, dataset)
    precision = resolve_precision(chosen.precision, resolve_device(task.device))
    steps = chosen.warm_steps(task, dataset) if task.epochs == ENDLESS else 0
    gate.ready(precision=precision, torch=torch.__version__, warm_steps=steps)
    for temperature, soft in task.jobs:
        observer = Gated(gate)
        lesson = Offline(
            networks.student(task, arrays), objective=objective(temperature=temperature, soft=soft), teacher=teacher
        )
        observer.count_batches_of(lesson)
        train(lesson, dataset=dataset, recipe=recipe(task, chosen), augment=AUGMENT, observer=observer)
    gate.finished()


def objective(*, temperature: float, soft: float) -> Any:
    """KD as everyone here computes it."""
    return build_objective((CrossEntropyTerm(weight=1 - soft), SoftTargetsTerm(weight=soft, temperature=temperature)))


def recipe(task: Task, chosen: Variant) -> Training:
    return Training(
        epochs=task.epochs,
        batch_size=task.batch_size,
        optimizer=Sgd(lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        schedule=ConstantSchedule(),
        precision=chosen.precision,
        device=task.device,  # type: ignore[arg-type]
        seed=task.seed,
    )


def as_dataset(arrays: images.Arrays, *, name: str, validation: int = _HELD_BACK) -> Dataset:
    """The archive's training images; the first of its test images are the validation split, the others the test."""
    train_split = _split(arrays.x_train, arrays.y_train, first_id=0)
    held = _split(arrays.x_test[:validation], arrays.y_test[:validation], first_id=len(arrays.y_train))
    test = _split(arrays.x_test[validation:], arrays.y_test[validation:], first_id=len(arrays.y_train) + validation)
    names = tuple(str(number) for number in range(arrays.classes))
    digest = images.sha256(arrays)
    return Dataset(
        name, names, arrays.channels, arrays.size, arrays.mean, arrays.std, train_split, held, test, digest, ()
    )


def _split(pixels: Any, labels: Any, *, first_id: int) -> Split:
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Split(tensor, torch.from_numpy(labels), torch.arange(first_id, first_id + len(labels)))
