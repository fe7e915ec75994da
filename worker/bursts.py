"""A burst of each training of a study on fresh networks, before any of them begins."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from distillery.spec.methods import DataFreeMethod, Fast, OnlineMethod
from distillery.spec.training import Training
from engine.burst import Pace, burst, seconds_per_image
from engine.data.dataset import Split
from engine.data.images import JoinedImages
from engine.lesson import Lesson
from engine.loop import Stopped
from engine.teachers import frozen_members
from worker import lessons
from worker.halts import Halt, halt_of
from worker.journal import Journal
from worker.lessons import Known
from worker.ready import Ready, fresh, merged, teaching_runs
from worker.remembering import recalled_share

SAVED_BYTES_PER_SECOND = 200e6
LEAST_OF_STEP = 0.1
"""Of the time of a step with a live teacher, what one takes whose answers are read."""
_LOOKED_AT = 256
_BACKWARD = 3
"""A step of training takes as long as so many answers."""


@dataclass(frozen=True)
class Planned:
    """A training of the study."""

    run: str
    recipe: Training
    lesson: Callable[[], Lesson]
    ready: Ready
    """With the data that it learns from."""
    times: int = 1


@dataclass(frozen=True)
class Timed:
    """A training and its pace."""

    plan: Planned
    pace: Pace
    """Of steps in which frozen teachers answer live."""
    recalled: float = 0.0
    """Share of the teachers' answers that will be read, 0 to 1."""
    asking_seconds: float = 0.0
    """Of all frozen teachers for one image."""

    def seconds(self, *, held_back: int, synthesis: int) -> float:
        """Of all its epochs and seeds; `held_back` images are validated after each, and `synthesis` batches made up."""
        epochs, pace = self.plan.recipe.epochs, self.pace
        recalling = self.recalled * self.plan.recipe.batch_size * self.asking_seconds
        step = max(pace.step_seconds - recalling, LEAST_OF_STEP * pace.step_seconds)
        learning = epochs * pace.steps_per_epoch * step + (0 if synthesis else pace.opening_seconds)
        making = epochs * synthesis * pace.opening_seconds
        saving = self.saves * pace.state_bytes / SAVED_BYTES_PER_SECOND
        return self.plan.times * (learning + making + epochs * held_back * pace.image_seconds + saving)

    @property
    def warm(self) -> "Timed":
        """The same where others have left all answers."""
        return replace(self, recalled=1.0) if self.recalled else self

    @property
    def image_seconds(self) -> float:
        """Of one image that is answered. Where nothing is validated, a part of what it takes to learn from it."""
        return self.pace.image_seconds or self.pace.step_seconds / self.plan.recipe.batch_size / _BACKWARD

    @property
    def saves(self) -> int:
        """Checkpoints of one of its runs."""
        return self.plan.recipe.epochs // self.plan.recipe.checkpoint_every.epochs + 1


@dataclass(frozen=True)
class Bursts:
    """All of them, and how long a given teacher takes for an image."""

    trainings: tuple[Timed, ...]
    given: tuple[float, ...]
    """Seconds of one image for each teacher that was trained elsewhere."""

    @property
    def finished_bytes(self) -> int:
        """What the trained networks take that are kept until the study ends: the best and the last of each."""
        return sum(2 * each.plan.times * each.pace.weights_bytes for each in self.trainings)


def timed(ready: Ready, *, journal: Journal) -> Bursts:
    """Try out every training. Nothing that the job itself uses is changed.

    Raises:
        worker.halts.Halt: memory ran out.
        engine.loop.Stopped: asked to leave.
    """
    look = _look(ready)
    trainings = tuple(_tried(ready, plan, look=look, journal=journal) for plan in planned(ready))
    given = [each for each in ready.teachers if each is not None]
    return Bursts(trainings, tuple(seconds_per_image(each, look, dataset=ready.dataset) for each in given))


def _tried(ready: Ready, plan: Planned, *, look: Split, journal: Journal) -> Timed:
    def leave_when_asked() -> None:
        if journal.stop_requested():
            raise Stopped

    lesson = plan.lesson()
    try:
        pace = burst(
            lesson,
            dataset=plan.ready.dataset,
            recipe=plan.recipe,
            augment=ready.spec.dataset.augment,
            look=look,
            micro_batches=ready.micro_batches,
            stop=leave_when_asked,
        )
    except Stopped:
        raise
    except Exception as error:
        if halted := halt_of(error, run=plan.run):
            raise Halt(halted) from error
        raise
    recalled = recalled_share(plan.ready, lesson)
    teachers = [each.network for each in frozen_members(lesson.teacher)] if recalled else []
    asking = sum(seconds_per_image(each, look, dataset=ready.dataset) for each in teachers)
    gc.collect()
    return Timed(plan, pace, recalled=recalled, asking_seconds=asking)


def planned(ready: Ready) -> Iterator[Planned]:
    """Every training of the study on fresh networks, in order; seeds count as one."""
    spec, shared = ready.spec, ready.spec.training
    ready = replace(ready, remembers=False)
    wider = _with_unlabelled(ready)
    quick = _with_one_synthesis(wider)
    above = [
        Known(each.architecture, given if given is not None else fresh(ready, each.architecture, draw=place))
        for place, (each, given) in enumerate(zip(spec.teachers, ready.teachers, strict=True))
    ]
    if not isinstance(spec.method, OnlineMethod):
        for run, each, given in zip(teaching_runs(spec), spec.teachers, ready.teachers, strict=True):
            if given is None:
                lesson = partial(lessons.teaching, ready, each.architecture)
                yield Planned(run, merged(shared, each.train), lesson, ready)
    for number, each_assistant in enumerate(spec.assistants, 1):
        recipe, name = merged(shared, each_assistant.train), each_assistant.architecture
        yield Planned(f"assisting{number}", recipe, partial(lessons.taught, wider, name, above), wider)
        above = [Known(name, fresh(ready, name, draw=1))]
    yield Planned("training", shared, partial(lessons.student, quick, above), quick, times=spec.seeds)
    if spec.baseline:
        lesson = partial(lessons.baseline, ready)
        yield Planned("baseline", shared, lesson, ready, times=spec.seeds)


def _with_unlabelled(ready: Ready) -> Ready:
    """Student and assistants learn from unlabelled images too; which labels they get takes no time."""
    data = ready.dataset
    if data.unlabelled is None:
        return ready
    both = (data.train, data.unlabelled)
    train = Split(
        images=JoinedImages([each.images for each in both]),
        labels=torch.cat([each.labels.clamp_min(0) for each in both]),
        ids=torch.cat([each.ids for each in both]),
    )
    return replace(ready, dataset=replace(data, train=train))


def _with_one_synthesis(ready: Ready) -> Ready:
    """Made-up images come in batches of equal cost before an epoch: one of them is enough to time."""
    method = ready.spec.method
    if not isinstance(method, DataFreeMethod) or not isinstance(method.synthesis, Fast):
        return ready
    made = method.synthesis.model_copy(update={"synthesis_batches": 1})
    return replace(ready, spec=ready.spec.model_copy(update={"method": method.model_copy(update={"synthesis": made})}))


def synthesis_batches(ready: Ready) -> int:
    """Batches that are made up before each epoch; 0 where none are."""
    method = ready.spec.method
    if isinstance(method, DataFreeMethod) and isinstance(method.synthesis, Fast):
        return method.synthesis.synthesis_batches
    return 0


def _look(ready: Ready) -> Split:
    """Images to time answers on: of the validation split, or noise where it may not be read."""
    data = ready.dataset
    if not isinstance(ready.spec.method, DataFreeMethod):
        part = data.validation
        return Split(part.images[:_LOOKED_AT], part.labels[:_LOOKED_AT], part.ids[:_LOOKED_AT]).to(ready.device)
    shape = (_LOOKED_AT, data.channels, data.image_size, data.image_size)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(_LOOKED_AT)
    return Split(noise, numbers, numbers).to(ready.device)
