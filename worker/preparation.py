"""What is settled and checked before anything is trained: data, device, given teachers, shapes, one rehearsed batch."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec import JobSpec
from distillery.spec.job import Provenance
from distillery.spec.methods import DataFreeMethod
from distillery.spec.teacher import TeacherSpec
from engine import evaluate, preflight
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.sealed import sealed
from engine.data.views import Batch
from engine.environment import versions
from engine.precision import autocast
from worker import lessons
from worker.journal import Journal
from worker.lessons import Known
from worker.messages import Resolved
from worker.ready import Ready, fresh, samples
from worker.teacher_weights import LoadedTeacher, load_teacher

_REHEARSED = 4
"""Images of the rehearsed batch: enough for every term that compares samples."""


def prepare(
    spec: JobSpec,
    *,
    journal: Journal,
    teacher_weights: Mapping[int, Path],
    teacher_facts: Mapping[int, Path] = MappingProxyType({}),
    stored: Path | None = None,
    unlabelled: Path | None = None,
    micro_batches: int = 1,
) -> Ready:
    """Settle what the spec leaves open, and refuse what cannot work.

    `micro_batches` are the parts in which batches will go through the networks.

    Raises:
        distillery.errors.DistilleryError: the spec, the data, the device or the teachers are at fault.
    """
    journal.enter("preparing")
    torch.set_num_threads(spec.training.threads or os.cpu_count() or 1)
    device, precision = preflight.check_device(spec.training)
    dataset = load(spec.dataset, stored=stored, unlabelled=unlabelled)
    data_free = isinstance(spec.method, DataFreeMethod)
    if data_free:
        dataset = sealed(dataset)
    else:
        for warning in preflight.check_data(dataset):
            journal.warn(warning)
    _check_architectures(spec, dataset)
    given = [
        load_teacher(each, dataset=dataset, given=teacher_weights.get(place), own_scale=data_free)
        if each.source not in (None, "train")
        else None
        for place, each in enumerate(spec.teachers)
    ]
    dataset = _normalised(dataset, [each for each in given if each is not None])
    found = Provenance(data_sha256=dataset.sha256, teacher_sha256=_hash_of(given), versions=versions())
    _same_bytes(spec.provenance, found)
    facts = {"device": device.type, "precision": precision, "threads": torch.get_num_threads()}
    training = spec.training.model_copy(update=facts)
    resolved = spec.model_copy(update={"training": training, "provenance": found})
    journal.spec = resolved
    journal.teller.tell(Resolved(spec=resolved))
    networks = tuple(each.network.to(device) if each else None for each in given)
    ready = Ready(resolved, dataset.to(device), device, precision, networks, micro_batches=micro_batches)
    _check_networks(ready)
    return ready


def _check_architectures(spec: JobSpec, dataset: Dataset) -> None:
    """Whether each network can be built for this data."""
    several = len(spec.teachers) > 1
    named = [
        (each.architecture, f"/teacher/members/{place}/architecture" if several else "/teacher/architecture")
        for place, each in enumerate(spec.teachers)
    ]
    named += [(each.architecture, f"/assistants/{place}/architecture") for place, each in enumerate(spec.assistants)]
    named.append((spec.student.architecture, "/student/architecture"))
    for architecture, pointer in named:
        preflight.check_architecture(
            architecture,
            pointer=pointer,
            classes=len(dataset.classes),
            image_size=dataset.image_size,
            channels=dataset.channels,
        )


def _normalised(dataset: Dataset, given: Sequence[LoadedTeacher]) -> Dataset:
    """The data under the normalisation that the given teachers were trained with, which must be one."""
    if not given:
        return dataset
    first = given[0]
    for place, other in enumerate(given[1:], 2):
        if (other.mean, other.std) != (first.mean, first.std):
            raise UnusableWeights(
                f"Given teacher {place} reads images of mean {other.mean} and deviation {other.std}, the first one of "
                f"{first.mean} and {first.std}.",
                hint="Use teachers that were trained with one normalisation; those trained in the job always are.",
                pointer="/teacher",
            )
    return replace(dataset, mean=first.mean, std=first.std)


def _hash_of(given: Sequence[LoadedTeacher | None]) -> str | None:
    hashes = [each.sha256 for each in given if each is not None]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _check_networks(ready: Ready) -> None:
    """Two images through each network and one batch through the lesson, before hours of training."""
    spec = ready.spec
    teachers = [
        Known(each.architecture, given or fresh(ready, each.architecture, draw=place))
        for place, (each, given) in enumerate(zip(spec.teachers, ready.teachers, strict=True))
    ]
    student = Known(spec.student.architecture, fresh(ready, spec.student.architecture))
    for role, known in [*(("teacher", each) for each in teachers), ("student", student)]:
        preflight.check_forward(
            known.network,
            samples(ready)[:2],
            classes=len(ready.dataset.classes),
            role=role,
            device=ready.device,
            precision=ready.precision,
        )
    for place, given in enumerate(ready.teachers):
        if given is not None:
            check_teacher(ready, given, spec.teachers[place])
    _rehearse(ready, teachers)


def _same_bytes(expected: Provenance, found: Provenance) -> None:
    for name, what in (("data_sha256", "data set"), ("teacher_sha256", "teacher's weights")):
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != got:
            raise InvalidRequest(
                f"The {what} found here has sha256 {got}, but the spec was resolved against {wanted}.",
                hint=f"Bring back the same bytes, or remove provenance.{name} to accept the new ones.",
                pointer=f"/provenance/{name}",
            )


def _rehearse(ready: Ready, teachers: Sequence[Known]) -> None:
    """One small batch through every lesson of the job: layers that do not fit each other show here, in a second."""
    above = teachers
    rehearsed = []
    for assistant in ready.spec.assistants:
        rehearsed.append(lessons.taught(ready, assistant.architecture, above))
        above = [Known(assistant.architecture, fresh(ready, assistant.architecture, draw=1))]
    rehearsed.append(lessons.student(ready, above))
    for lesson in rehearsed:
        layout = lesson.prepare(ready.device)
        views = lesson.batches(
            ready.dataset,
            ready.spec.training,
            epoch=0,
            start_batch=0,
            augment=ready.spec.dataset.augment,
            layout=layout,
        )
        whole = next(iter(views))
        few = Batch(whole.images[:_REHEARSED], whole.labels[:_REHEARSED], whole.ids[:_REHEARSED])
        with autocast(ready.device, precision=ready.precision):
            answers = lesson.forward(few)
        lesson.terms(answers, few)


def check_teacher(ready: Ready, teacher: nn.Module, spec: TeacherSpec) -> None:
    """Refuse a teacher that knows too little to teach. Nothing is asked of it where there is no data to ask about.

    Raises:
        UnusableWeights: its validation accuracy is below the floor.
    """
    if isinstance(ready.spec.method, DataFreeMethod):
        return
    data = ready.dataset
    teacher = teacher.to(ready.device)
    logits = evaluate.predict(
        teacher, data.validation, mean=data.mean, std=data.std, device=ready.device, batch_size=ready.portion
    )
    accuracy = evaluate.accuracy(logits, data.validation.labels.cpu())
    preflight.teacher_floor(accuracy, classes=len(data.classes), minimum=spec.minimum_accuracy)
