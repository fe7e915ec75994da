"""Images that nobody labelled: the teacher labels them, and student and assistants learn from them with the others."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distillery.views import Progress
from engine import evaluate
from engine.data.dataset import Split
from engine.data.images import JoinedImages
from engine.loop import Stopped
from worker import lessons
from worker.journal import Journal
from worker.lessons import Known
from worker.messages import Progressed
from worker.ready import Ready, assisting_runs, run_names

_TELL_SECONDS = 1.0
_PORTIONS = 4
"""Batches between two looks at whether to leave."""


def with_unlabelled(ready: Ready, teachers: Sequence[Known], *, journal: Journal) -> Ready:
    """What student and assistants learn from: the training split, and the unlabelled images with the teacher's labels.

    The same as it was where there are none, and where nobody is left to learn from them.

    Raises:
        engine.loop.Stopped: asked to leave.
    """
    data, learners = ready.dataset, (*assisting_runs(ready.spec), *run_names("training", ready.spec.seeds))
    if data.unlabelled is None or all(run in journal.finished for run in learners):
        return ready
    labels = _labels(ready, data.unlabelled, teachers, journal=journal)
    journal.warn(_notice(unlabelled=len(labels), labelled=len(data.train), baseline=ready.spec.baseline))
    both = (data.train, data.unlabelled)
    train = Split(
        images=JoinedImages([split.images for split in both]),
        labels=torch.cat((data.train.labels, labels.to(data.train.labels.device))),
        ids=torch.cat([split.ids for split in both]),
    )
    return replace(ready, dataset=replace(data, train=train))


def _labels(ready: Ready, split: Split, teachers: Sequence[Known], *, journal: Journal) -> Tensor:
    """The teacher's likeliest class for each image, int64 [N] on the CPU; several teachers are merged."""
    data, network = ready.dataset, lessons.together(ready.spec, [each.network for each in teachers])
    answers, told = [], time.monotonic()
    for start in range(0, len(split), _PORTIONS * ready.portion):
        if journal.stop_requested():
            journal.save(None)
            raise Stopped("Stopped while the teacher labelled images.")
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            done = Progress(phase=journal.phase, step=start, total_steps=len(split))
            journal.teller.tell(Progressed(step=journal.step(), progress=done))
        rows = slice(start, start + _PORTIONS * ready.portion)
        logits = evaluate.predict(
            network,
            Split(split.images[rows], split.labels[rows], split.ids[rows]),
            mean=data.mean,
            std=data.std,
            device=ready.device,
            batch_size=ready.portion,
        )
        answers.append(logits.argmax(1))
    return torch.cat(answers)


def _notice(*, unlabelled: int, labelled: int, baseline: bool) -> str:
    said = (
        f"The student also learned from {unlabelled:,} unlabelled images. Their labels, in cross-entropy too, are the "
        f"teacher's answers, which may be wrong."
    )
    if not baseline:
        return said
    return (
        f"{said} The baseline learned from the {labelled:,} labelled images alone, so that the gain is that of the "
        f"teacher, of more images and of the steps that these add."
    )
