"""What is settled and checked before anything is trained: data, device, given teachers, shapes, one rehearsed batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from distillery.errors import InvalidRequest
from distillery.spec import JobSpec
from distillery.spec.job import Provenance
from distillery.spec.methods import DataFreeMethod
from distillery.spec.teacher import BLACK_BOXES, TeacherSpec
from engine import evaluate, preflight, stems, student_forms
from engine.cores import default_threads
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.sealed import sealed
from engine.data.views import Batch
from engine.environment import versions
from engine.latency.places import demand_a_place
from engine.precision import autocast
from worker import lessons
from worker.given import Brought, diagnose, fitted, hash_of, load_given, normalised, with_architectures
from worker.journal import Journal
from worker.lessons import Known
from worker.messages import Resolved
from worker.ready import Ready, fresh, samples

_REHEARSED = 4
"""Images of the rehearsed batch: enough for every term that compares samples."""
_TABLE = "table"


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

    `teacher_weights` are fetched files, by the teacher's place in the spec, and `teacher_facts` what is known of those
    that were brought along (`views.ModelFacts` as JSON). `stored` and `unlabelled` are the packed files that the spec
    names by their ids. `micro_batches` are the parts in which batches will go through the networks.

    Raises:
        distillery.errors.DistilleryError: the spec, the data, the device or the teachers are at fault.
    """
    began = time.monotonic()
    journal.enter("preparing")
    torch.set_num_threads(spec.training.threads or default_threads())
    device, precision = preflight.check_device(spec.training)
    if spec.latency is not None:
        demand_a_place(spec.latency)
    measured = _checked_data(spec, load(spec.dataset, stored=stored, unlabelled=unlabelled), journal=journal)
    _check_architectures(spec, measured, journal=journal)
    brought = Brought(teacher_weights, teacher_facts)
    given = load_given(spec, dataset=measured, brought=brought)
    dataset = normalised(measured, given)
    found = Provenance(data_sha256=dataset.sha256, teacher_sha256=hash_of(given), versions=versions())
    _same_bytes(spec.provenance, found)
    facts = {"device": device.type, "precision": precision, "threads": torch.get_num_threads()}
    training = spec.training.model_copy(update=facts)
    resolved = with_architectures(spec, given).model_copy(update={"training": training, "provenance": found})
    journal.spec = resolved
    journal.teller.tell(Resolved(spec=resolved))
    networks = tuple(each and each.to(device) for each in fitted(resolved, given, dataset=dataset))
    ready = Ready(resolved, dataset.to(device), device, precision, networks, micro_batches=micro_batches)
    teachers = _check_networks(ready)
    accuracies = diagnose(ready, given, measured=measured, brought=brought, journal=journal)
    _rehearse(ready, teachers)
    return replace(ready, accuracies=accuracies, preparing_seconds=time.monotonic() - began)


def _checked_data(spec: JobSpec, dataset: Dataset, *, journal: Journal) -> Dataset:
    if isinstance(spec.method, DataFreeMethod):
        return sealed(dataset)
    for warning in preflight.check_data(dataset):
        journal.warn(warning)
    return dataset


def _check_architectures(spec: JobSpec, dataset: Dataset, *, journal: Journal) -> None:
    """Whether each network can be built for this data, and whether those that are trained on it fit its size.

    A black box has no architecture, and that of a teacher may yet have to come from its file.
    """
    named = [
        (each.architecture, f"{pointer}/architecture", "teacher" if each.source in (None, "train") else "")
        for each, pointer in zip(spec.teachers, spec.teacher_pointers, strict=True)
        if each.architecture not in ("", *BLACK_BOXES)
    ]
    named += [
        (each.architecture, f"/assistants/{place}/architecture", "assistant")
        for place, each in enumerate(spec.assistants)
    ]
    named.append((spec.student.architecture, "/student/architecture", "student"))
    for architecture, pointer, trained_as in named:
        preflight.check_architecture(
            architecture,
            pointer=pointer,
            classes=len(dataset.classes),
            image_size=dataset.image_size,
            channels=dataset.channels,
        )
        if trained_as and (warning := stems.warn_of_stem(architecture, role=trained_as, image_size=dataset.image_size)):
            journal.warn(warning)


def _check_networks(ready: Ready) -> list[Known]:
    """Two images through each network, before hours of training; gives the teachers."""
    spec = ready.spec
    teachers = [
        Known(each.architecture, given or fresh(ready, each.architecture, draw=place))
        for place, (each, given) in enumerate(zip(spec.teachers, ready.teachers, strict=True))
    ]
    student = Known(spec.student.architecture, fresh(ready, spec.student.architecture))
    told = [("teacher", known, pointer) for known, pointer in zip(teachers, spec.teacher_pointers, strict=True)]
    for role, known, pointer in (*told, ("student", student, "/student")):
        if known.architecture == _TABLE:  # it is asked about samples and not about images
            continue
        preflight.check_forward(
            known.network,
            samples(ready)[:2],
            classes=len(ready.dataset.classes),
            role=role,
            device=ready.device,
            precision=ready.precision,
            pointer=pointer,
        )
    return teachers


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
    ready = replace(ready, remembers=False)
    above = teachers
    rehearsed = []
    for assistant in ready.spec.assistants:
        rehearsed.append(lessons.taught(ready, assistant.architecture, above))
        above = [Known(assistant.architecture, fresh(ready, assistant.architecture, draw=1))]
    rehearsed.append(lessons.student(ready, above))
    for lesson in rehearsed:
        if ready.spec.training.compile == "on":
            student_forms.demand(lesson, ready.device)
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
