"""A short burst of the real training, timed on networks that are thrown away: how fast it goes, how much it keeps."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from distillery.spec.training import AdamW, Training
from engine.data.dataset import Dataset, Split
from engine.evaluate import predict
from engine.lesson import Lesson
from engine.loop import train

COUNTED_STEPS = 3
"""At least; the step before them, in which memory is taken and kernels are chosen, does not count."""
SLOW_STEPS = 2
"""Are enough where a step takes seconds."""
SLOW_SECONDS = 4.0
MOST_SECONDS = 1.0
"""Of quick steps in one burst."""
SHARE = 0.03
"""Of the time that the whole run would take, for quick steps."""
OPENING_SECONDS = 30.0
"""For the first step, which may have to make its images up."""
_WAITED_FOR = 8
"""Steps between two looks at a device that runs on its own."""
_STOP_SECONDS = 10.0
_FEWEST_ASKED, _MOST_ASKED = 4, 256
_ASKING_SECONDS = 0.1
_ASKED_TIMES = 2
"""The quicker of which counts."""


class _Enough(Exception):
    """The burst is over."""


@dataclass(frozen=True)
class Pace:
    """What a burst told of a run."""

    step_seconds: float
    """Median of the steps that count: a step that had to wait for another process says nothing."""
    opening_seconds: float
    """What the first step took beyond that."""
    steps: int
    """Steps that count; 0 where not even the first one ended in time, which then tells the least that one takes."""
    steps_per_epoch: int
    image_seconds: float
    """Of one image, answered by the network that is trained and by those that are validated with it; 0 where none is
    validated."""
    weights_bytes: int
    """Of the network that is trained, with what is trained along."""
    state_bytes: int
    """Of a checkpoint in the middle of the run: weights, the best of them, and the optimizer's moments."""


def burst(
    lesson: Lesson,
    *,
    dataset: Dataset,
    recipe: Training,
    augment: tuple[str, ...],
    look: Split,
    micro_batches: int = 1,
    stop: Callable[[], None] = lambda: None,
) -> Pace:
    """Train `lesson` for a few steps, as the loop would, and throw away what it learned.

    Its networks must be nobody else's, except frozen teachers. `look` are images to time answers on, on the device of
    training. `stop` is called now and then in a burst that takes long; what it raises ends the burst. When it returns,
    torch's random generators are as they were before.

    Raises:
        RuntimeError: memory ran out, as it would in training.
    """
    device = look.labels.device
    steps_per_epoch = lesson.batch_count(dataset, recipe)
    watch = _Watch(steps_per_epoch, total_steps=steps_per_epoch * recipe.epochs, device=device, stop=stop)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        with contextlib.suppress(_Enough):
            train(lesson, dataset=dataset, recipe=recipe, augment=augment, observer=watch, micro_batches=micro_batches)
        image_seconds = 0.0
        if lesson.chooses_best:
            validated = (lesson.network, *lesson.companions().values())
            image_seconds = sum(seconds_per_image(each, look, dataset=dataset) for each in validated)
    step_seconds, opening_seconds = watch.told()
    weights = _bytes(lesson.network) + _bytes(lesson.objective)
    return Pace(
        step_seconds=step_seconds,
        opening_seconds=opening_seconds,
        steps=watch.counted,
        steps_per_epoch=steps_per_epoch,
        image_seconds=image_seconds,
        weights_bytes=weights,
        state_bytes=weights + _bytes(lesson.network) + _moments(lesson, recipe),
    )


def seconds_per_image(network: nn.Module, look: Split, *, dataset: Dataset) -> float:
    """How long an image takes to be answered, in portions as for validation. `look` is on the network's device."""
    few = _first(look, _FEWEST_ASKED)
    _ask(network, few, dataset=dataset)
    seconds = _ask(network, few, dataset=dataset) / len(few)
    some = _first(look, max(_FEWEST_ASKED, min(_MOST_ASKED, int(_ASKING_SECONDS / max(seconds, 1e-9)))))
    return min(_ask(network, some, dataset=dataset) for _ in range(_ASKED_TIMES)) / len(some)


def _first(look: Split, count: int) -> Split:
    return Split(look.images[:count], look.labels[:count], look.ids[:count])


def _ask(network: nn.Module, look: Split, *, dataset: Dataset) -> float:
    began = time.perf_counter()
    predict(network, look, mean=dataset.mean, std=dataset.std, device=look.labels.device)
    return time.perf_counter() - began


class _Watch:
    """Listens to the loop, and ends it once its steps are known well enough, at the latest with its first epoch."""

    def __init__(
        self, steps_per_epoch: int, *, total_steps: int, device: torch.device, stop: Callable[[], None]
    ) -> None:
        self._steps_per_epoch, self._total, self._device, self._stop = steps_per_epoch, total_steps, device, stop
        self._began = time.perf_counter()
        self._done = 0
        self._marks: list[tuple[int, float]] = []
        """Steps done, and seconds since the beginning, whenever the device was waited for."""

    @property
    def counted(self) -> int:
        """Steps that count: all but the first, or the first where there is no other."""
        return min(self._done, max(1, self._done - 1))

    def told(self) -> tuple[float, float]:
        """Seconds of a step, and what the first one took beyond that."""
        if not self._marks:
            return time.perf_counter() - self._began, 0.0
        first = self._marks[0][1]
        steps = [(at - before) / (done - earlier) for (earlier, before), (done, at) in pairwise(self._marks)]
        step = median(steps) if steps else first
        return step, max(0.0, first - step)

    def stop_requested(self) -> bool:
        """Asked by the loop after every step, whose time is taken."""
        self._done += 1
        if self._device.type == "cuda":
            if self._done > COUNTED_STEPS and self._done < self._steps_per_epoch and self._done % _WAITED_FOR:
                return False  # the host runs ahead of the device, as it does in training
            torch.cuda.synchronize(self._device)
        self._marks.append((self._done, time.perf_counter() - self._began))
        if self._enough():
            raise _Enough
        return False

    def _enough(self) -> bool:
        if self._done == self._steps_per_epoch:
            return True
        spent, step = self._marks[-1][1], self.told()[0]
        if self._done <= COUNTED_STEPS:
            return self._done > SLOW_STEPS and spent >= SLOW_SECONDS
        return spent - self._marks[0][1] >= min(MOST_SECONDS, SHARE * step * self._total)

    def progress(
        self, *, step: int, total_steps: int, epoch: int, epochs: int, images_per_second: float | None
    ) -> None:
        """Told about once a second, also in the middle of a long first step."""
        spent = time.perf_counter() - self._began
        if spent >= _STOP_SECONDS:
            self._stop()
        if not self._done and spent >= OPENING_SECONDS:
            raise _Enough

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nobody is told."""

    def warning(self, message: str) -> None:
        """The run itself will warn."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Nothing of it is kept."""


def _bytes(module: nn.Module) -> int:
    tensors = (each for each in module.state_dict().values() if isinstance(each, Tensor))
    return sum(each.numel() * each.element_size() for each in tensors)


def _moments(lesson: Lesson, recipe: Training) -> int:
    trained = sum(each.numel() * each.element_size() for group in lesson.learners() for each in group)
    return trained * (2 if isinstance(recipe.optimizer, AdamW) else 1)
