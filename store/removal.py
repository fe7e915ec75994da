"""Deleting jobs and models for good, unless something that has not ended still needs them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from sqlalchemy import Text, cast, delete, or_, select, update
from sqlalchemy.orm import Session

from distillery.errors import WrongState
from distillery.spec import JobSpec
from distillery.views import TERMINAL
from store import models, outbox
from store.jobs import find
from store.tables import ArtifactRow, CheckpointRow, JobRow, ModelRow

_NAMED = 5
"""Jobs named in a refusal."""
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
    _refuse_if_needed(job_id, chain(_following(session, job_id), _taught(session, job=job_id, models=kept)))
    measurements = session.scalars(select(JobRow.id).where(JobRow.subject_id == job_id)).all()
    whole = [job_id, *measurements]
    for table in (CheckpointRow, ArtifactRow):
        for key in session.scalars(select(table.key).where(table.job_id.in_(whole))):
            outbox.delete_file(session, key)
    session.execute(delete(JobRow).where(JobRow.id.in_(measurements)))
    session.execute(delete(JobRow).where(JobRow.id == job_id))


def delete_model(session: Session, model_id: str) -> None:
    """Forget a model; its weights stay an artifact of its job.

    Raises:
        NotFound: there is no such model.
        WrongState: a job that has not ended needs it.
    """
    job_id = models.job_of(session, model_id)
    job = find(session, job_id, locked=True)  # as those lock it who write a job that this one is to teach
    teaches = job_id if job.student_model_id == model_id else None  # what names the job as its teacher means this model
    _refuse_if_needed(model_id, _taught(session, job=teaches, models=[model_id]))
    session.execute(update(JobRow).where(JobRow.student_model_id == model_id).values(student_model_id=None))
    session.execute(delete(ModelRow).where(ModelRow.id == model_id))


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


def _taught(session: Session, *, job: str | None, models: Sequence[str]) -> Iterator[str]:
    """The jobs that have not ended and take a teacher from the job, or from one of the models."""
    spec = cast(JobRow.resolved, Text)  # few specs name an id at all, and those are read
    named = or_(*(spec.contains(each) for each in (job, *models) if each is not None))
    for row in session.scalars(select(JobRow).where(_LIVE, JobRow.kind == "distillation", named)):
        teachers = JobSpec.model_validate(row.resolved).teachers
        if any((job is not None and each.job == job) or each.model in models for each in teachers):
            yield row.id
