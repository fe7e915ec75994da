"""Which teachers' answers are kept on this machine, and what became of them."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from distillery.errors import InvalidRequest
from distillery.spec import JobSpec
from engine.data.view_sets import EveryView, ViewSet
from engine.data.views import Batch, viewed
from engine.evaluate import BatchNetwork
from engine.lesson import Lesson
from engine.precision import Precision
from engine.remembered.cells import cell_bytes
from engine.remembered.shelf import Entry, Shelf
from engine.remembered.teacher import RememberingTeacher, kept_width
from engine.teachers import FrozenTeacher, frozen_members, members_of, state_sha256
from worker.messages import Answered
from worker.ready import Ready, samples

_FORMAT = 1
_SIGHTINGS = 2
"""Of every view that can be drawn all answers take room, however few are seen: half of them should be, at least."""


@dataclass(frozen=True)
class Kept:
    """Teachers as a run asks them."""

    teachers: tuple[Any, ...]
    """In their order; each answers a batch with `knowledge`."""
    why_live: str = ""
    """Why nothing is kept, where that was left to us."""


def views_of(spec: JobSpec) -> int | None:
    """How many views of an image student and baseline see; None for all that can be drawn."""
    asked = spec.dataset.views
    return asked if isinstance(asked, int) else None


def answered(run: str, lesson: Lesson) -> Answered:
    """What became of the answers of a lesson's teachers."""
    told = [each.counts for each in members_of(lesson.teacher) if isinstance(each, RememberingTeacher)]
    counts = asdict(sum(told[1:], start=told[0])) if told else {}
    return Answered(run=run, why_live=lesson.remark, **counts)


def batches_to_ask(lesson: Lesson, *, steps: int, epochs: int, batch_size: int, precision: Precision) -> list[int]:
    """Of each teacher, how many batches it will answer in a run of so many steps; the others are read."""
    return [
        -(-each.still_to_ask(epochs=epochs, precision=precision) // batch_size)
        if isinstance(each, RememberingTeacher)
        else steps
        for each in members_of(lesson.teacher)
    ]


def remembering(ready: Ready, teachers: Sequence[FrozenTeacher]) -> Kept:
    """The teachers with a memory, where the spec asks for that and there is room.

    Raises:
        InvalidRequest: the answers must be kept, and there is no room for them.
    """
    asked = ready.spec.training.teacher_answers
    if asked == "live" or not ready.remembers:
        return Kept(tuple(teachers))
    shelf, views = Shelf.of_this_machine(), _shown(ready)
    reason = _why_not(ready, teachers, shelf=shelf)
    if reason and asked != "auto":
        raise InvalidRequest(
            f"The teacher's answers cannot be kept: {reason}",
            hint="Use teacher_answers: auto or live, fewer dataset.views, or raise DISTILLERY_ANSWERS_BYTES.",
            pointer="/training/teacher_answers",
        )
    if reason:
        return Kept(tuple(teachers), why_live=reason)
    # A table of answers is a memory already.
    return Kept(tuple(each if _is_table(each) else _with_memory(ready, each, shelf, views) for each in teachers))


def recalled_share(ready: Ready, lesson: Lesson) -> float:
    """What share of the teachers' answers in all runs of a lesson will be read and not computed, 0 to 1, as far as
    this job alone makes them; what other jobs have left makes it more. `lesson` has teachers without a memory.
    """
    teachers = frozen_members(lesson.teacher)
    if ready.spec.training.teacher_answers == "live" or not teachers:
        return 0.0
    if _why_not(ready, teachers, shelf=Shelf.of_this_machine()):
        return 0.0
    views, visits = _shown(ready), ready.spec.training.epochs * ready.spec.seeds
    if isinstance(views, EveryView):
        return 1 - views.planes * (1 - (1 - 1 / views.planes) ** visits) / visits
    return 1 - min(views.planes, ready.spec.training.epochs) / visits


def _shown(ready: Ready) -> ViewSet:
    return viewed(ready.dataset.train, views=views_of(ready.spec), augment=ready.spec.dataset.augment)


def _is_table(teacher: FrozenTeacher) -> bool:
    return isinstance(teacher.network, BatchNetwork)


def _why_not(ready: Ready, teachers: Sequence[FrozenTeacher], *, shelf: Shelf) -> str:
    """Why answers are not kept; nothing where they are."""
    views, epochs = _shown(ready), ready.spec.training.epochs
    seldom = isinstance(views, EveryView) and views.planes > _SIGHTINGS * epochs
    if seldom and ready.spec.training.teacher_answers == "auto":
        return f"Each of {views.planes} views of an image is seen too seldom in {epochs} epochs."
    need = sum(_bytes_of(ready, each, views) for each in teachers if not _is_table(each))
    if need > shelf.limit:
        return f"They take {need / 1e6:,.0f} MB, and DISTILLERY_ANSWERS_BYTES allows {shelf.limit / 1e6:,.0f} MB."
    try:
        shelf.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=shelf.root).close()
    except OSError as error:
        return f"The folder {shelf.root} (DISTILLERY_ANSWERS) cannot be written: {error.strerror}."
    free = shutil.disk_usage(shelf.root).free
    if need > free:
        return f"They may take {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free where they lie."
    return ""


def _bytes_of(ready: Ready, teacher: FrozenTeacher, views: ViewSet) -> int:
    """What the answers of one teacher to all views take, told by its answers to two images."""
    images = samples(ready)[:2]
    nobody = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    answers = teacher.knowledge(Batch(images=images, labels=nobody, ids=nobody))
    told = {"logits": answers.logits, **answers.features}
    packs = _packs(ready)
    widths = [kept_width(tuple(each.shape[1:]), packs=packs and name == "logits") for name, each in told.items()]
    return views.planes * views.count * sum(cell_bytes(width) for width in widths)


def _with_memory(ready: Ready, teacher: FrozenTeacher, shelf: Shelf, views: ViewSet) -> nn.Module:
    data = ready.dataset
    key = {
        "format": _FORMAT,
        "teacher": state_sha256(teacher.network),
        "network": hashlib.sha256(repr(teacher.network).encode()).hexdigest(),  # strides and the like have no weights
        "device": ready.device.type,
        "data": data.sha256,
        "rows": hashlib.sha256(data.train.ids.cpu().numpy().tobytes()).hexdigest(),
        "image_size": data.image_size,
        "mean": data.mean,
        "std": data.std,
        "views": views.facts,
        "packed": _packs(ready),
    }

    def entry(number_format: str) -> Entry:
        return shelf.open({**key, "precision": number_format})

    return RememberingTeacher(teacher, entry=entry, views=views, packs=_packs(ready))


def _packs(ready: Ready) -> bool:
    return ready.spec.training.teacher_answers == "packed"
