"""One study, told once: data, teacher, student, the same student alone, and what became of each.

Every network is trained by the same loop. The test split is read in the phase `evaluating` and nowhere before.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillery.errors import InvalidRequest
from distillery.spec import JobSpec
from distillery.spec.job import Provenance
from distillery.spec.objectives import CrossEntropyTerm
from distillery.spec.training import Training
from engine import evaluate, preflight
from engine.data.readers import load
from engine.environment import versions
from engine.loop import Trained, train
from engine.objectives import build as build_objective
from engine.teachers import FrozenTeacher, state_sha256
from worker.closing import close
from worker.journal import Journal, PhaseObserver
from worker.messages import Resolved
from worker.ready import Ready, fresh, loaded
from worker.teacher_weights import load_teacher


def distil(spec: JobSpec, *, journal: Journal, teacher_weights: Path | None, resume: Path | None) -> None:
    """Run every phase of the study and deliver its artifacts into the journal's folder.

    Raises:
        distillery.errors.DistilleryError: the spec, the data or the numbers are at fault.
        engine.loop.Stopped: asked to leave; the last checkpoint is saved and told.
    """
    ready = _prepare(spec, journal=journal, teacher_weights=teacher_weights)
    if resume is not None:
        journal.restore(resume)
    teacher = ready.teacher or _teach(ready, journal=journal)
    _distil_student(ready, teacher=teacher, journal=journal)
    if ready.spec.baseline:
        _train_baseline(ready, journal=journal)
    close(ready, teacher=teacher, journal=journal)


def _prepare(spec: JobSpec, *, journal: Journal, teacher_weights: Path | None) -> Ready:
    journal.enter("preparing")
    torch.set_num_threads(spec.training.threads or os.cpu_count() or 1)
    device, precision = preflight.check_device(spec.training)
    dataset = load(spec.dataset)
    for warning in preflight.check_data(dataset):
        journal.warn(warning)
    preflight.check_pair(
        spec.teacher.architecture,
        spec.student.architecture,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        channels=dataset.channels,
    )
    given = None if spec.teacher.train else load_teacher(spec.teacher, dataset=dataset, given=teacher_weights)
    if given is not None:
        dataset = replace(dataset, mean=given.mean, std=given.std)
    found = Provenance(data_sha256=dataset.sha256, teacher_sha256=given.sha256 if given else None, versions=versions())
    _same_bytes(spec.provenance, found)
    facts = {"device": device.type, "precision": precision, "threads": torch.get_num_threads()}
    training = spec.training.model_copy(update=facts)
    resolved = spec.model_copy(update={"training": training, "provenance": found})
    journal.spec = resolved
    journal.teller.tell(Resolved(spec=resolved))
    ready = Ready(resolved, dataset.to(device), device, precision, given.network.to(device) if given else None)
    _check_networks(ready)
    return ready


def _check_networks(ready: Ready) -> None:
    """Two images through each network, before hours of training."""
    spec = ready.spec
    teacher = ready.teacher or fresh(ready, spec.teacher.architecture)
    student = fresh(ready, spec.student.architecture)
    for role, network in (("teacher", teacher), ("student", student)):
        preflight.check_forward(network, ready.dataset, role=role, device=ready.device, precision=ready.precision)
    if ready.teacher is not None:
        _check_teacher(ready, ready.teacher)


def _same_bytes(expected: Provenance, found: Provenance) -> None:
    for name, what in (("data_sha256", "data set"), ("teacher_sha256", "teacher's weights")):
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != got:
            raise InvalidRequest(
                f"The {what} found here has sha256 {got}, but the spec was resolved against {wanted}.",
                hint=f"Bring back the same bytes, or remove provenance.{name} to accept the new ones.",
                pointer=f"/provenance/{name}",
            )


def _teach(ready: Ready, *, journal: Journal) -> nn.Module:
    spec = ready.spec
    own = spec.teacher.train
    if own is None:
        raise AssertionError("Only a teacher with a `train` section is trained in the job.")
    if "teaching" not in journal.finished:
        journal.enter("teaching")
        recipe = spec.training.model_copy(update=own.model_dump(exclude_none=True) | _nested(own))
        trained = _run_loop(ready, spec.teacher.architecture, recipe=recipe, teacher=None, journal=journal)
        journal.finish("teaching", trained)
    teacher = loaded(ready, spec.teacher.architecture, journal.finished["teaching"].best)
    _check_teacher(ready, teacher)
    return teacher


def _nested(own: Any) -> dict[str, Any]:
    return {name: getattr(own, name) for name in ("optimizer", "schedule") if getattr(own, name) is not None}


def _distil_student(ready: Ready, *, teacher: nn.Module, journal: Journal) -> None:
    if "training" in journal.finished:
        return
    journal.enter("training")
    frozen = FrozenTeacher(teacher)
    before = state_sha256(teacher)
    trained = _run_loop(
        ready, ready.spec.student.architecture, recipe=ready.spec.training, teacher=frozen, journal=journal
    )
    if state_sha256(teacher) != before:
        raise AssertionError("The teacher's state changed while it taught.")
    journal.finish("training", trained)


def _train_baseline(ready: Ready, *, journal: Journal) -> None:
    if "baseline" in journal.finished:
        return
    journal.enter("baseline")
    recipe = ready.spec.training
    trained = _run_loop(ready, ready.spec.student.architecture, recipe=recipe, teacher=None, journal=journal)
    journal.finish("baseline", trained)


def _run_loop(
    ready: Ready, architecture: str, *, recipe: Training, teacher: FrozenTeacher | None, journal: Journal
) -> Trained:
    """One call of the loop. Without a teacher the objective is cross-entropy with the labels, at full weight."""
    terms = ready.spec.method.terms if teacher else (_labels_only(ready.spec),)
    network = fresh(ready, architecture)
    return train(
        network,
        objective=build_objective(terms),
        teacher=teacher,
        dataset=ready.dataset,
        recipe=recipe,
        augment=ready.spec.dataset.augment,
        observer=PhaseObserver(journal),
        resume=journal.loop_state(journal.phase),
    )


def _labels_only(spec: JobSpec) -> CrossEntropyTerm:
    smoothing = [term.label_smoothing for term in spec.method.terms if isinstance(term, CrossEntropyTerm)]
    return CrossEntropyTerm(weight=1.0, label_smoothing=smoothing[0] if smoothing else 0.0)


def _check_teacher(ready: Ready, teacher: nn.Module) -> None:
    data = ready.dataset
    teacher = teacher.to(ready.device)
    logits = evaluate.predict(teacher, data.validation, mean=data.mean, std=data.std, device=ready.device)
    accuracy = evaluate.accuracy(logits, data.validation.labels.cpu())
    preflight.teacher_floor(accuracy, classes=len(data.classes), minimum=ready.spec.teacher.minimum_accuracy)
