"""Teachers that were trained elsewhere: read, held against the data, and looked into where they answer it badly."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from distillery.errors import DistilleryError, UnfitTeacher, UnusableWeights
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod
from distillery.spec.preprocessing import Preprocessing
from distillery.spec.teacher import BLACK_BOXES, TeacherEnsemble, TeacherSpec
from distillery.views import ModelFacts
from engine import stems
from engine.data.dataset import Dataset
from engine.diagnosis import Diagnosis, Suspect, examine
from engine.weights import read_metadata
from models import catalog
from models.torchvision_stems import SMALL, SMALL_SIDE
from worker.journal import Journal
from worker.ready import Ready
from worker.teacher_weights import LoadedTeacher, load_teacher

_PUBLISHED = "torchvision:"
Given = tuple[LoadedTeacher | None, ...]
"""By the teacher's place in the spec; None where the job trains it."""


@dataclass(frozen=True)
class Brought:
    """What was fetched for the teachers of a job, by their places in its spec."""

    weights: Mapping[int, Path]
    facts: Mapping[int, Path]
    """`views.ModelFacts` as JSON, of those that were brought along."""

    def facts_of(self, place: int) -> ModelFacts | None:
        """What is known of the teacher at that place, where it was brought along."""
        path = self.facts.get(place)
        return None if path is None else ModelFacts.model_validate_json(path.read_bytes())


def load_given(spec: JobSpec, *, dataset: Dataset, brought: Brought) -> Given:
    """Read every teacher that the job does not train.

    Raises:
        distillery.errors.UnfitTeacher: its classes are not those of the data, or it was made for another size.
        distillery.errors.DistilleryError: its file is missing, foreign or damaged. All of them name the teacher.
    """
    data_free = isinstance(spec.method, DataFreeMethod)
    given: list[LoadedTeacher | None] = []
    for place, (each, pointer) in enumerate(zip(spec.teachers, spec.teacher_pointers, strict=True)):
        if each.source in (None, "train"):
            given.append(None)
            continue
        with pointed_at(pointer):
            _refuse_other_stem(each, dataset)
            given.append(
                load_teacher(
                    each,
                    dataset=dataset,
                    given=brought.weights.get(place),
                    facts=brought.facts_of(place),
                    own_scale=data_free,
                )
            )
    return tuple(given)


@contextmanager
def pointed_at(pointer: str) -> Iterator[None]:
    """Refusals of what stands at `/teacher` name the member of an ensemble that is meant."""
    try:
        yield
    except DistilleryError as error:
        if not error.pointer or error.pointer.startswith("/teacher"):
            error.pointer = pointer + error.pointer.removeprefix("/teacher")
        raise


def _refuse_other_stem(spec: TeacherSpec, dataset: Dataset) -> None:
    """Published weights have no place in the gentler first layer that small images get."""
    if not (spec.weights or "").startswith(_PUBLISHED) or dataset.image_size > SMALL_SIDE:
        return
    row = catalog.find(spec.architecture)
    if row.family in SMALL and row.input[1] > SMALL_SIDE:
        raise UnfitTeacher(
            f"The published weights of {row.name} are for images of {row.input[1]} pixels. For images of "
            f"{dataset.image_size} pixels the network gets another first layer, which those weights do not fit.",
            cause="IMAGE_SIZE",
            hint=f"Set 'image_size' of the dataset to {row.input[1]}, or train the teacher in the job.",
            pointer="/teacher/weights",
        )


def with_architectures(spec: JobSpec, given: Given) -> JobSpec:
    """The spec with every architecture named that came with the weights."""
    named = tuple(
        each.model_copy(update={"architecture": loaded.architecture}) if loaded and not each.architecture else each
        for each, loaded in zip(spec.teachers, given, strict=True)
    )
    if named == spec.teachers:
        return spec
    several = isinstance(spec.teacher, TeacherEnsemble)
    teacher = spec.teacher.model_copy(update={"members": named}) if several and spec.teacher else named[0]
    return spec.model_copy(update={"teacher": teacher})


def normalised(dataset: Dataset, given: Given) -> Dataset:
    """The data under the normalisation that the given teachers were trained with, which must be one.

    Black boxes have no say in it: they turn whatever the job's networks read into what they expect.

    Raises:
        UnusableWeights: two of them were trained with different ones.
    """
    own = [(place, each) for place, each in enumerate(given) if each is not None and each.mean and each.std]
    if not own:
        return dataset
    _, first = own[0]
    for place, other in own[1:]:
        if (other.mean, other.std) != (first.mean, first.std):
            raise UnusableWeights(
                f"Given teacher {place + 1} reads images of mean {other.mean} and deviation {other.std}, the first one "
                f"of {first.mean} and {first.std}.",
                hint="Use teachers that were trained with one normalisation; those trained in the job always are.",
                pointer="/teacher",
            )
    return replace(dataset, mean=first.mean or dataset.mean, std=first.std or dataset.std)


def hash_of(given: Given) -> str | None:
    """The hash of the one given teacher; of several, that of their hashes."""
    hashes = [each.sha256 for each in given if each is not None]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def fitted(spec: JobSpec, given: Given, *, dataset: Dataset) -> tuple[nn.Module | None, ...]:
    """The networks of the given teachers, for images as the job's networks read them."""
    networks: list[nn.Module | None] = []
    for loaded, pointer in zip(given, spec.teacher_pointers, strict=True):
        with pointed_at(pointer):
            networks.append(None if loaded is None else loaded.fitted(dataset))
    return tuple(networks)


def diagnose(
    ready: Ready, given: Given, *, measured: Dataset, brought: Brought, journal: Journal
) -> tuple[float | None, ...]:
    """The accuracy of each given teacher on validation images; what may be wrong with it is told as a warning.

    `measured` is the data under its own mean and deviation. Where a job may read no data, nothing is asked.

    Raises:
        UnfitTeacher: a teacher knows too little to teach; the likely cause is named.
    """
    found: list[float | None] = []
    for place, (loaded, network) in enumerate(zip(given, ready.teachers, strict=True)):
        if loaded is None or network is None:
            found.append(None)
            continue
        for warning in _about_size(ready, place, loaded):
            journal.warn(warning)
        if isinstance(ready.spec.method, DataFreeMethod):
            found.append(None)
            continue
        suspect = _suspect(ready, network, loaded, place=place, brought=brought)
        diagnosis = _examined(ready, suspect, place=place, measured=measured)
        if diagnosis.warning:
            journal.warn(diagnosis.warning)
        found.append(diagnosis.top1.value)
    return tuple(found)


def _about_size(ready: Ready, place: int, loaded: LoadedTeacher) -> Sequence[str]:
    published = (ready.spec.teachers[place].weights or "").startswith(_PUBLISHED)
    warning = stems.warn_of_published(loaded.architecture, image_size=ready.dataset.image_size) if published else ""
    told = loaded.notices(ready.spec.dataset.augment)
    return (*told, warning) if warning else told


def _suspect(ready: Ready, network: nn.Module, loaded: LoadedTeacher, *, place: int, brought: Brought) -> Suspect:
    facts, spec = brought.facts_of(place), ready.spec.teachers[place]
    expects: Preprocessing | None = None
    if loaded.architecture == "onnx":
        expects = facts.preprocessing if facts else spec.preprocessing
    path = brought.weights.get(place) or Path(spec.weights or "")
    return Suspect(
        network=network,
        mean=ready.dataset.mean,
        std=ready.dataset.std,
        recorded=loaded.accuracy,
        expects=expects,
        reads_images=loaded.architecture != "table",
        native_size=facts.preprocessing.image_size if facts else _native_size(loaded.architecture, path),
    )


def _native_size(architecture: str, path: Path) -> int | None:
    """As the file tells it, or else the catalogue."""
    if architecture in BLACK_BOXES:
        return None
    told = read_metadata(path).get("image_size", "") if path.suffix == ".safetensors" else ""
    return int(told) if told.isdecimal() else catalog.find(architecture).input[1]


def _examined(ready: Ready, suspect: Suspect, *, place: int, measured: Dataset) -> Diagnosis:
    return examine(
        suspect,
        dataset=ready.dataset,
        measured=(measured.mean, measured.std),
        minimum=ready.spec.teachers[place].minimum_accuracy,
        pointer=ready.spec.teacher_pointers[place],
    )
