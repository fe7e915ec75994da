"""`engine.loop.train` itself, in each of the ways that it can be asked to train."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.contest import images, networks
from benchmarks.contest.gate import Gate
from benchmarks.contest.task import ENDLESS, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task
from distillery.spec.job import EPOCHS_PER_VIEW, FEWEST_VIEWS
from distillery.spec.objectives import CrossEntropyTerm, SoftTargetsTerm
from distillery.spec.training import ConstantSchedule, Sgd, Training
from engine.data.dataset import Dataset, Split
from engine.data.views import Batch, batch_count, batches, viewed
from engine.lesson import Lesson
from engine.loop import train
from engine.objectives import build as build_objective
from engine.precision import resolve_device, resolve_precision
from engine.remembered.shelf import Shelf
from engine.remembered.teacher import RememberingTeacher
from engine.strategies.offline import Offline
from engine.student_forms import CompiledStudent
from engine.teacher_forms import choose_form
from engine.teachers import FrozenTeacher, Teacher, state_sha256

AUGMENT = ("crop", "flip")
_SETTLING = 3
_TRIED = 512
"""Images on which forms of the teacher are tried."""
_HELD_BACK = 2
"""Images that the loop validates on, because it must; they are nobody's training images."""


@dataclass(frozen=True)
class Variant:
    """One way to train. A new one is a line of `VARIANTS`."""

    name: str
    precision: Literal["auto", "fp32"]
    twin: str = ""
    """The variant that it equals where `auto` takes fp32."""
    cached: bool = False
    """Whether the teacher's answers are kept, so that it computes nothing in the steady state."""

    formed: bool = False
    """Whether the teacher answers in the fastest faithful form that a trial finds."""
    compiled: bool = False
    """Whether the student's step is compiled."""

    def views(self, task: Task) -> int | None:
        """How many views of an image there are: what a job of so many epochs chooses. Of a training without an end,
        one, because its steady pace does not depend on it and each has to be seen before it is reached."""
        if not self.cached:
            return None
        return 1 if task.epochs == ENDLESS else max(FEWEST_VIEWS, -(-task.epochs // EPOCHS_PER_VIEW))

    @contextmanager
    def teacher(
        self, task: Task, arrays: images.Arrays, dataset: Dataset, *, told: dict[str, str]
    ) -> Iterator[Teacher]:
        """What answers the student's views; which form it has goes into `told`."""
        live = FrozenTeacher(networks.teacher(task, arrays))
        if self.formed:
            precision = resolve_precision(self.precision, resolve_device(task.device))
            form = choose_form(
                live,
                _first_views(dataset, task),
                batch_size=task.batch_size,
                batches_in_run=ENDLESS * len(dataset.train),
                precision=precision,
            )
            told["form"] = form.choice.model_copy(update={"run": "contest"}).message
        if not self.cached:
            yield live
            return
        key = {"teacher": state_sha256(live.network), "data": dataset.sha256}
        shown = viewed(dataset.train, views=self.views(task), augment=AUGMENT)
        shelf = Shelf(Path(task.scratch))
        yield RememberingTeacher(live, entry=lambda number: shelf.open({**key, "precision": number}), views=shown)

    def warm_steps(self, task: Task, dataset: Dataset) -> int:
        """Steps until its pace is the one that it keeps: every answer known, every kernel chosen."""
        return _SETTLING + (batch_count(len(dataset.train), batch_size=task.batch_size) if self.cached else 0)


VARIANTS = (
    Variant("live fp32", "fp32"),
    Variant("live", "auto", twin="live fp32"),
    Variant("live + form", "auto", formed=True),
    Variant("live + form + compile", "auto", formed=True, compiled=True),
    Variant("cached fp32", "fp32", cached=True),
    Variant("cached", "auto", twin="cached fp32", cached=True),
    Variant("cached + compile", "auto", cached=True, compiled=True),
)


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

        lesson.batches = counted  # type: ignore[method-assign]  # of this one lesson, which nobody else holds

    def stop_requested(self) -> bool:
        """Never, but the answer may take a while."""
        if self._pending:
            self._gate.step(self._pending)
        self._pending = 0
        return False


def run(task: Task, gate: Gate) -> None:
    """All jobs of the task, one after another, with one teacher."""
    chosen, arrays = variant(task.contender), images.read(task.images)
    dataset = as_dataset(arrays, name="contest")
    told: dict[str, str] = {}
    with chosen.teacher(task, arrays, dataset, told=told) as teacher:
        precision = resolve_precision(chosen.precision, resolve_device(task.device))
        steps = chosen.warm_steps(task, dataset) if task.epochs == ENDLESS else 0
        gate.ready(precision=precision, torch=torch.__version__, warm_steps=steps, **told)
        for temperature, soft in task.jobs:
            observer = Gated(gate)
            taught = lesson(task, chosen, arrays, teacher, temperature=temperature, soft=soft)
            observer.count_batches_of(taught)
            train(taught, dataset=dataset, recipe=recipe(task, chosen), augment=AUGMENT, observer=observer)
        gate.finished()


def lesson(
    task: Task, chosen: Variant, arrays: images.Arrays, teacher: Teacher, *, temperature: float, soft: float
) -> Offline:
    """A fresh student before the teacher."""
    made = Offline(
        networks.student(task, arrays), objective=objective(temperature=temperature, soft=soft), teacher=teacher
    )
    made.views = chosen.views(task)
    if chosen.compiled:
        made.prepare(resolve_device(task.device))
        made.ask_student_by(CompiledStudent(made.network, size=task.batch_size))
    return made


def _first_views(dataset: Dataset, task: Task) -> Tensor:
    """Images as a run shows them, float32 [N, C, H, W]."""
    read = batches(
        dataset.train.to(resolve_device(task.device)),
        batch_size=task.batch_size,
        seed=task.seed,
        epoch=0,
        augment=AUGMENT,
        mean=dataset.mean,
        std=dataset.std,
        channels_last=True,
    )
    return torch.cat([batch.images for batch in islice(read, -(-_TRIED // task.batch_size))])


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
        device=task.device,  # type: ignore[arg-type]  # plain text in a task; pydantic refuses another
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
