"""The networks that a benchmark names: whether each is there, can be loaded, and fits the others and the data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from distillery.errors import FieldProblem, InvalidSpec, NotFound, WrongState
from distillery.spec import BenchmarkSpec, JobSpec
from distillery.spec.benchmark import BenchmarkModel, Role
from distillery.spec.dataset import DatasetSpec, StoredData
from distillery.views import BenchmarkedModel
from store import datasets, models
from store.jobs import unusable
from store.tables import ArtifactRow, JobRow, ModelRow

WEIGHTS: dict[Role, tuple[str, ...]] = {
    "student": ("student.safetensors",),
    "teacher": ("teacher.safetensors", "teacher.onnx"),
    "baseline": ("baseline.safetensors",),
}
"""Of each of a job's networks, the artifacts it can be loaded from; a job delivers at most one of them."""


@dataclass(frozen=True)
class Entry:
    """A network that was found. What is None is not known before a worker reads its file."""

    told: BenchmarkedModel
    classes: tuple[str, ...] | None
    image_size: int | None
    channels: int | None
    dataset: DatasetSpec | None
    """That it was made or measured on."""


def hold(session: Session, spec: BenchmarkSpec) -> None:
    """Keep what the benchmark names from being deleted until this transaction has ended."""
    jobs = [each.job for each in spec.models if each.job]
    kept = [each.model for each in spec.models if each.model]
    jobs += [spec.dataset.id] if isinstance(spec.dataset, StoredData) else []
    models_of = select(ModelRow.job_id).where(ModelRow.id.in_(kept))
    rows = select(JobRow.id).where(or_(JobRow.id.in_(jobs), JobRow.id.in_(models_of))).order_by(JobRow.id)
    session.execute(rows.with_for_update(read=True, key_share=True, of=JobRow)).all()


def resolved(session: Session, spec: BenchmarkSpec) -> tuple[BenchmarkSpec, tuple[BenchmarkedModel, ...]]:
    """The benchmark with names, reference and data filled in, and what is known of its models.

    Raises:
        InvalidSpec: a model is not there, cannot be loaded, or does not fit the others or the data.
    """
    entries: list[tuple[int, Entry]] = []
    problems: list[FieldProblem] = []
    for place, asked in enumerate(spec.models):
        try:
            entries.append((place, _entry(session, asked, pointer=f"/models/{place}")))
        except (NotFound, WrongState) as error:
            problems += error.problems
    problems += _misfits(entries)
    dataset = spec.dataset
    if not problems:
        first = entries[0][1]
        dataset = dataset or first.dataset
        problems += _unfit_data(session, dataset, first)
    if problems or dataset is None:
        raise InvalidSpec(problems)
    plain = dataset.model_copy(
        update={"augment": (), "unlabelled": None, "image_size": dataset.image_size or entries[0][1].image_size}
    )
    named = tuple(each.model_copy(update={"name": each.called}) for each in spec.models)
    filled = spec.model_copy(update={"models": named, "reference": spec.held_against, "dataset": plain})
    return filled, tuple(entry.told for _, entry in entries)


def _entry(session: Session, asked: BenchmarkModel, *, pointer: str) -> Entry:
    if asked.model is not None:
        return _of_model(session, asked.model, called=asked.called, pointer=f"{pointer}/model")
    return _of_job(session, str(asked.job), asked, pointer=pointer)


def _of_model(session: Session, model_id: str, *, called: str, pointer: str) -> Entry:
    view = models.usable(session, model_id, pointer=pointer)
    if view.format == "table":
        raise WrongState(
            f"{model_id} is a table of answers: it computes nothing, so its time would say nothing.",
            hint="Name a network, or a graph of ONNX.",
            pointer=pointer,
        )
    dataset = view.source.dataset if view.source else None
    if view.job_id is not None and (row := session.get(JobRow, view.job_id)) is not None:
        dataset = JobSpec.model_validate(row.resolved).dataset
    told = BenchmarkedModel(
        name=called, role=view.role, job_id=view.job_id, model_id=view.id, architecture=view.architecture,
        accuracy=view.accuracy,
    )  # fmt: skip
    return Entry(told, view.classes, view.image_size, view.channels, dataset)


def _of_job(session: Session, job_id: str, asked: BenchmarkModel, *, pointer: str) -> Entry:
    row = session.get(JobRow, job_id)
    if row is None or row.kind != "distillation":
        raise NotFound(f"There is no job '{job_id}'.", hint="GET /v1/jobs lists them.", pointer=f"{pointer}/job")
    if row.status != "succeeded":
        hint = "Wait until it has succeeded, or name another one."
        raise WrongState(
            f"{job_id} is {row.status}: it has delivered no networks.", hint=hint, pointer=f"{pointer}/job"
        )
    weights = WEIGHTS[asked.role]
    delivered = select(ArtifactRow.name).where(ArtifactRow.job_id == job_id, ArtifactRow.name.in_(weights))
    if session.scalar(delivered.limit(1)) is None:
        raise WrongState(
            f"{job_id} delivered no {asked.role} that can be loaded: it has no {' or '.join(weights)}.",
            hint="A table of answers cannot be timed, nor can several teachers of which one is a black box.",
            pointer=f"{pointer}/role",
        )
    spec = JobSpec.model_validate(row.resolved)
    kept = session.scalars(select(ModelRow).where(ModelRow.job_id == job_id).order_by(ModelRow.created_at)).all()
    shape = next(iter(kept), None)
    own = next((each for each in kept if each.role == asked.role), None)
    taught_by = " + ".join(each.architecture for each in spec.teachers)
    told = BenchmarkedModel(
        name=asked.called, role=asked.role, job_id=job_id, model_id=own.id if own else None,
        architecture=taught_by if asked.role == "teacher" else spec.student.architecture,
        accuracy=own.accuracy if own else None,
    )  # fmt: skip
    if shape is None:  # its models were forgotten; the worker will see
        return Entry(told, None, None, None, spec.dataset)
    return Entry(told, tuple(shape.classes), shape.image_size, shape.channels, spec.dataset)


def _misfits(entries: Sequence[tuple[int, Entry]]) -> Iterator[FieldProblem]:
    """Networks that cannot read the images of the first one, or answer with other classes."""
    known = [(place, each) for place, each in entries if each.classes is not None]
    for place, each in known[1:]:
        at, first = known[0]
        if each.classes and first.classes and not _same(each.classes, first.classes):
            detail = f"It tells {_counted(each.classes)} apart, model {at} {_counted(first.classes)}."
            hint = "Hold models of the same classes, in the same order, against each other."
            yield FieldProblem(f"/models/{place}", "CLASSES_DIFFER", detail, hint)
        elif (each.image_size, each.channels) != (first.image_size, first.channels):
            detail = f"It reads images of {_size(each)}, model {at} of {_size(first)}."
            hint = "Hold models for images of one size against each other."
            yield FieldProblem(f"/models/{place}", "INPUTS_DIFFER", detail, hint)


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Classes that have numbers for names, on either side, are only counted."""
    if len(one) == len(other) and (_numbered(one) or _numbered(other)):
        return True
    return one == other


def _numbered(classes: tuple[str, ...]) -> bool:
    return all(name == str(place) for place, name in enumerate(classes))


def _counted(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''})"


def _size(entry: Entry) -> str:
    return f"{entry.image_size}x{entry.image_size} pixels and {entry.channels} channels"


def _unfit_data(session: Session, dataset: DatasetSpec | None, first: Entry) -> Iterator[FieldProblem]:
    if dataset is None:
        detail = f"{first.told.name} was brought along without data, so it is not known whose images to read."
        yield FieldProblem("/dataset", "MISSING", detail, "Add 'dataset', such as {name: digits}.")
        return
    if first.image_size and dataset.image_size not in (None, first.image_size):
        detail = f"The models read images of {first.image_size} pixels, not of {dataset.image_size}."
        yield FieldProblem("/dataset/image_size", "INPUTS_DIFFER", detail, f"Set it to {first.image_size}.")
    if not isinstance(dataset, StoredData):
        return
    problems = list(unusable(session, dataset.id, pointer="/dataset/id"))
    yield from problems
    facts = None if problems else datasets.get(session, dataset.id).facts
    if facts is None or not first.classes:
        return
    if not _same(first.classes, facts.classes):
        detail = f"The data has {_counted(facts.classes)}, the models tell {_counted(first.classes)} apart."
        yield FieldProblem("/dataset/id", "CLASSES_DIFFER", detail, "Name data of the models' classes.")
    elif first.channels != facts.channels:
        detail = f"The data has {facts.channels} channels, the models read {first.channels}."
        yield FieldProblem("/dataset/id", "INPUTS_DIFFER", detail, "Name data of the models' channels.")
