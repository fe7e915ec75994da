"""In which form the networks of a run compute: chosen before its first step, and kept when it is resumed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from distillery.spec.training import Training
from engine import student_forms, teacher_forms
from engine.lesson import Lesson
from engine.precision import Precision, resolve_precision
from engine.student_forms import COMPILED, LOSS_TOLERANCE, Wanted
from engine.teacher_forms import AUTO, EAGER, MOST_MEAN_KL, Chosen
from worker.journal import Forms, Journal
from worker.messages import FormChosen
from worker.ready import Ready
from worker.remembering import batches_to_ask

IMAGES = 512
"""Views of training images that forms are tried on."""


@dataclass(frozen=True)
class _Run:
    """A run that is about to take its first step in this attempt."""

    ready: Ready
    name: str
    lesson: Lesson
    recipe: Training
    journal: Journal
    began: bool
    """Whether an earlier attempt took steps of it."""
    kept: Forms
    """What it began with; of a further seed, what the first one of its phase took; empty where that is open."""

    @property
    def batch_size(self) -> int:
        """Images that go through the networks at once."""
        return -(-self.recipe.batch_size // self.ready.micro_batches)

    @property
    def steps(self) -> int:
        """Of the optimizer, from start to end."""
        return self.lesson.batch_count(self.ready.dataset, self.recipe) * self.recipe.epochs

    @property
    def precision(self) -> Precision:
        """Of the forward passes."""
        return resolve_precision(self.recipe.precision, self.ready.device)


def settle(
    ready: Ready, name: str, lesson: Lesson, *, recipe: Training, among: Sequence[str], journal: Journal
) -> None:
    """Let each network of the run `name` compute in the form that it began with, or in the best one found now.

    Raises:
        engine.loop.Stopped: asked to leave in the middle of a trial.
    """
    began = journal.loop_state(name) is not None
    # A run that was begun before there was a choice was eager, and stays so.
    kept = journal.forms.get(name, {"teachers": [], "student": [EAGER]}) if began else {}
    if not began and name.startswith(f"{among[0]}-seed"):
        kept = journal.forms.get(among[0], {})
    run = _Run(ready, name, lesson, recipe, journal, began, kept)
    journal.forms[name] = {"teachers": _teachers(run), "student": _student(run)}


def _teachers(run: _Run) -> list[str]:
    teachers = run.lesson.frozen_teachers()
    wanted: Sequence[str] = [run.recipe.teacher_form] * len(teachers)
    if run.kept:
        wanted = run.kept["teachers"] or [EAGER] * len(teachers)
    images = _views(run, IMAGES) if any(each != EAGER for each in wanted) else torch.empty(0)
    asked = batches_to_ask(
        run.lesson,
        steps=run.steps * run.ready.micro_batches,
        epochs=run.recipe.epochs,
        batch_size=run.batch_size,
        precision=run.precision,
    )
    names = []
    for place, (teacher, name, batches) in enumerate(zip(teachers, wanted, asked, strict=True)):
        chosen = teacher_forms.choose_form(
            teacher,
            images,
            batch_size=run.batch_size,
            batches_in_run=batches,
            precision=run.precision,
            wanted=name,
            meanwhile=run.journal.leave_when_asked,
        )
        choice = chosen.choice.model_copy(update={"run": run.name, "place": place, **_as_before(run, chosen, name)})
        run.journal.teller.tell(FormChosen(choice=choice))
        _warn_of_another(run, chosen, wanted=name)
        names.append(chosen.name)
    return names


def _as_before(run: _Run, chosen: Chosen, wanted: str) -> dict[str, str]:
    """The reason of a form that was kept and not chosen anew."""
    if not run.kept or chosen.name != wanted:
        return {}
    return {"reason": "as the run began." if run.began else "as for the first seed."}


def _warn_of_another(run: _Run, chosen: Chosen, *, wanted: str) -> None:
    if wanted in (AUTO, chosen.name):
        return
    if run.began:
        run.journal.warn(
            f"The run {run.name} began with its teacher in the form {wanted}, and goes on without it: "
            f"{chosen.choice.reason} So its result may differ from that of an uninterrupted run, as much as forms may "
            f"differ from each other: by a mean KL of {MOST_MEAN_KL:g} in the teacher's answers.",
            run=run.name,
        )
    else:
        run.journal.warn(
            f"In the run {run.name} the teacher does not answer as asked for: {chosen.choice.reason}", run=run.name
        )


def _student(run: _Run) -> list[str]:
    """`compiled` or `eager`. Of methods that can never compile their student nothing is told."""
    if run.lesson.never_compiled():
        return [EAGER]
    wanted: Wanted = run.recipe.compile
    if run.kept:
        wanted = "on" if run.kept["student"] == [COMPILED] else "off"
    batch = torch.empty(0) if wanted == "off" else _views(run, run.batch_size)
    name, choice = student_forms.choose_student(
        run.lesson, batch, steps=run.steps, precision=run.precision, wanted=wanted
    )
    if run.kept and (name == COMPILED) == (wanted == "on"):
        choice = choice.model_copy(update={"reason": "as the run began." if run.began else "as for the first seed."})
    run.journal.teller.tell(FormChosen(choice=choice.model_copy(update={"run": run.name})))
    if wanted == "on" and name != COMPILED:
        run.journal.warn(
            f"The run {run.name} goes on uncompiled: {choice.reason} So its "
            f"result may differ a little from that of an uninterrupted run: by {LOSS_TOLERANCE:g} of the loss at the "
            f"beginning.",
            run=run.name,
        )
    return [name]


def _views(run: _Run, count: int) -> Tensor:
    """The images [N, C, H, W] of the run's first batches: as it will ask about them, and the same in every attempt."""
    layout = run.lesson.prepare(run.ready.device)
    batches = run.lesson.batches(
        run.ready.dataset,
        run.recipe,
        epoch=0,
        start_batch=0,
        augment=run.ready.spec.dataset.augment,
        layout=layout,
    )
    enough = -(-count // run.recipe.batch_size)
    images = torch.cat([batch.images for batch in islice(batches, enough)])
    return images[:count].contiguous(memory_format=layout)
