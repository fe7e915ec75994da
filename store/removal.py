"""Deleting jobs, models and data sets for good, unless something that has not ended still needs them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from sqlalchemy import Text, cast, delete, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from distillery.errors import NotFound, WrongState
from distillery.spec import BenchmarkSpec, JobSpec
from distillery.views import TERMINAL
from store import benchmarks, datasets, models, orphans, outbox
from store.jobs import find
from store.tables import LIVE, ArtifactRow, CheckpointRow, JobRow, ModelRow
from store.transitions import lock

_NAMED = 5
"""Jobs named in a refusal."""
_WITH_SPEC = ("distillation", "preflight")
_LIVE = JobRow.status.not_in(sorted(TERMINAL))


def delete_job(session: Session, job_id: str) -> None:
    """Delete a job that has ended, with its events, metrics, models, measurements and files.

    Raises:
        NotFound: there is no such job.
        WrongState: it has not ended, or a job that has not ended needs it.
    """
    row = find(session, job_id, locked=True)
    if row.status not in TERMINAL:
        raise WrongState(f"{job_id} is {row.status}; only what has ended can be deleted.", hint="Cancel it first.")
    kept = session.scalars(select(ModelRow.id).where(ModelRow.job_id == job_id)).all()
    _refuse_if_needed(job_id, chain(_following(session, job_id), _needing(session, job=job_id, models=kept)))
    measurements = session.scalars(select(JobRow.id).where(JobRow.subject_id == job_id)).all()
    whole = [job_id, *measurements]
    for table in (CheckpointRow, ArtifactRow):
        for key in session.scalars(select(table.key).where(table.job_id.in_(whole))):
            outbox.delete_file(session, key)
    session.execute(delete(JobRow).where(JobRow.id.in_(measurements)))
    session.execute(delete(JobRow).where(JobRow.id == job_id))


def delete_model(session: Session, model_id: str) -> None:
    """Forget a model. The weights of one from a job stay an artifact of that; those of any other go with it.

    Raises:
        NotFound: there is no such model.
        WrongState: a job that has not ended needs it, or it is being checked.
    """
    job_id = models.job_of(session, model_id)
    if job_id == model_id:
        return _delete_brought(session, model_id, needed_by=_needing(session, job=None, models=[model_id]))
    job = find(session, job_id, locked=True)  # as those lock it who write a job that this one is to teach
    teaches = job_id if job.student_model_id == model_id else None  # what names the job as its teacher means this model
    _refuse_if_needed(model_id, _needing(session, job=teaches, models=[model_id]))
    session.execute(update(JobRow).where(JobRow.student_model_id == model_id).values(student_model_id=None))
    session.execute(delete(ModelRow).where(ModelRow.id == model_id))
    return None


def delete_dataset(session: Session, dataset_id: str) -> None:
    """Forget a data set, with its packed form unless another one has the same bytes.

    Raises:
        NotFound: there is no such data set.
        WrongState: a job that has not ended needs it, or it is being packed.
    """
    datasets.get(session, dataset_id)
    _delete_brought(session, dataset_id, needed_by=_learning(session, dataset_id))


def delete_benchmark(session: Session, benchmark_id: str) -> None:
    """Delete a benchmark that has ended, with its files.

    Raises:
        NotFound: there is no such benchmark.
        WrongState: it has not ended.
    """
    benchmarks.get(session, benchmark_id)
    row = lock(session, benchmark_id)
    if row is None:
        raise NotFound(f"There is no '{benchmark_id}' any more.")
    if row.status not in TERMINAL:
        hint = "Cancel it first."
        raise WrongState(f"{benchmark_id} is {row.status}; only what has ended can be deleted.", hint=hint)
    for key in session.scalars(select(ArtifactRow.key).where(ArtifactRow.job_id == benchmark_id)):
        outbox.delete_file(session, key)
    session.execute(delete(JobRow).where(JobRow.id == benchmark_id))


def _delete_brought(session: Session, row_id: str, *, needed_by: Iterable[str]) -> None:
    row = lock(session, row_id)
    if row is None:
        raise NotFound(f"There is no '{row_id}' any more.")
    if row.status in LIVE:
        raise WrongState(f"{row_id} is being read by a worker.", hint="Wait until that has ended.")
    _refuse_if_needed(row_id, needed_by)
    keys = session.scalars(select(ArtifactRow.key).where(ArtifactRow.job_id == row_id)).all()
    session.execute(delete(JobRow).where(JobRow.id == row_id))
    for key in set(keys) - orphans.named(session, keys):
        outbox.delete_file(session, key)


def _refuse_if_needed(what: str, by: Iterable[str]) -> None:
    if needing := list(dict.fromkeys(by)):
        shown = ", ".join(needing[:_NAMED]) + (" …" if len(needing) > _NAMED else "")
        raise WrongState(
            f"{what} is needed by {shown}.", hint="Wait until they have ended, or cancel them, and delete it then."
        )


def _following(session: Session, job_id: str) -> Iterable[str]:
    """What has not ended and goes on from the job's checkpoints, or measures it."""
    follows = or_(JobRow.retry_of == job_id, JobRow.subject_id == job_id)
    return session.scalars(select(JobRow.id).where(_LIVE, follows))


def _needing(session: Session, *, job: str | None, models: Sequence[str]) -> Iterator[str]:
    """What has not ended and loads a network of the job, or one of the models."""
    yield from _taught(session, job=job, models=models)
    named = _naming(job, models)
    for row in session.scalars(select(JobRow).where(_LIVE, JobRow.kind == "benchmark", named)):
        entries = BenchmarkSpec.model_validate(row.resolved).models
        if any((job is not None and each.job == job) or each.model in models for each in entries):
            yield row.id


def _naming(job: str | None, models: Sequence[str]) -> ColumnElement[bool]:
    """Few specs name an id at all, and those are read."""
    spec = cast(JobRow.resolved, Text)
    return or_(*(spec.contains(each) for each in (job, *models) if each is not None))


def _taught(session: Session, *, job: str | None, models: Sequence[str]) -> Iterator[str]:
    """The jobs that have not ended and take a teacher from the job, or from one of the models."""
    named = _naming(job, models)
    for row in session.scalars(select(JobRow).where(_LIVE, JobRow.kind.in_(_WITH_SPEC), named)):
        teachers = JobSpec.model_validate(row.resolved).teachers
        if any((job is not None and each.job == job) or each.model in models for each in teachers):
            yield row.id


def _learning(session: Session, dataset_id: str) -> Iterator[str]:
    """What has not ended and reads the data set."""
    named = cast(JobRow.resolved, Text).contains(dataset_id)
    yield from session.scalars(select(JobRow.id).where(_LIVE, named, JobRow.id != dataset_id))
