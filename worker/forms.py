"""In which form the networks of a run compute: chosen before its first step, and kept when it is resumed."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from distillery.spec.training import Training
from engine import teacher_forms
from engine.lesson import Lesson
from engine.precision import resolve_precision
from engine.teacher_forms import AUTO, EAGER, MOST_MEAN_KL, Chosen
from worker.journal import Journal
from worker.messages import FormChosen
from worker.ready import Ready

IMAGES = 512
"""Views of training images that forms are tried on."""


def settle(ready: Ready, run: str, lesson: Lesson, *, recipe: Training, among: Sequence[str], journal: Journal) -> None:
    """Let each frozen teacher of `lesson` answer in the form that the run began with, or in the best one found now.

    Raises:
        engine.loop.Stopped: asked to leave in the middle of a trial.
    """
    teachers = lesson.frozen_teachers()
    if not teachers:
        return
    wanted, began = _wanted(run, count=len(teachers), recipe=recipe, among=among, journal=journal)
    images = _views(ready, lesson, recipe) if any(each != EAGER for each in wanted) else torch.empty(0)
    names = []
    for place, (teacher, name) in enumerate(zip(teachers, wanted, strict=True)):
        chosen = teacher_forms.choose_form(
            teacher,
            images,
            batch_size=-(-recipe.batch_size // ready.micro_batches),
            batches_in_run=lesson.batch_count(ready.dataset, recipe) * recipe.epochs,
            precision=resolve_precision(recipe.precision, ready.device),
            wanted=name,
            meanwhile=journal.leave_when_asked,
        )
        choice = chosen.choice.model_copy(update={"run": run, "place": place})
        journal.teller.tell(FormChosen(choice=choice))
        _warn_of_another(chosen, wanted=name, began=began, run=run, journal=journal)
        names.append(chosen.name)
    journal.forms[run] = {"teachers": names}


def _wanted(
    run: str, *, count: int, recipe: Training, among: Sequence[str], journal: Journal
) -> tuple[Sequence[str], bool]:
    """What to ask for, by the teacher's place; and whether the run began with that.

    A further seed takes what the first one of its phase took: it is the same teacher.
    """
    if journal.loop_state(run) is not None:
        # Runs that were begun before there was a choice were eager.
        return journal.forms.get(run, {}).get("teachers", [EAGER] * count), True
    if run.startswith(f"{among[0]}-seed") and (first := journal.forms.get(among[0])):
        return first["teachers"], False
    return [recipe.teacher_form] * count, False


def _warn_of_another(chosen: Chosen, *, wanted: str, began: bool, run: str, journal: Journal) -> None:
    if wanted in (AUTO, chosen.name):
        return
    if began:
        journal.warn(
            f"The run {run} began with its teacher in the form {wanted}, and goes on without it: {chosen.choice.reason}"
            f" So its result may differ from that of an uninterrupted run, as much as forms may differ from each "
            f"other: by a mean KL of {MOST_MEAN_KL:g} in the teacher's answers.",
            run=run,
        )
    else:
        journal.warn(f"In the run {run} the teacher does not answer as asked for: {chosen.choice.reason}", run=run)


def _views(ready: Ready, lesson: Lesson, recipe: Training) -> Tensor:
    """The images [N, C, H, W] of the run's first batches: as it will ask about them, and the same in every attempt."""
    layout = lesson.prepare(ready.device)
    batches = lesson.batches(
        ready.dataset, recipe, epoch=0, start_batch=0, augment=ready.spec.dataset.augment, layout=layout
    )
    enough = -(-IMAGES // recipe.batch_size)
    images = torch.cat([batch.images for batch in islice(batches, enough)])
    return images[:IMAGES].contiguous(memory_format=layout)
