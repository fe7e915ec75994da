"""Jobs made from earlier ones: a retry goes on where its predecessor ended, a clone begins anew."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from distillery.errors import WrongState
from distillery.ids import new_id
from distillery.spec import JobSpec
from distillery.views import Job
from store.jobs import add_row, find, get, hold_references
from store.tables import CheckpointRow, JobRow

_RETRYABLE = ("failed", "crashed", "cancelled")


def retry(session: Session, job_id: str, *, max_seconds: float | None = None) -> Job:
    """Queue a new job with the same spec and seed, that goes on from the last checkpoint of this one.

    What has ended stays as it ended. The new job is called as the old one is called by now, and runs differently where
    that one came to; `max_seconds` takes the place of the limit in the spec. When the old one was a retry itself and
    has saved nothing, `retry_of` is the one that it was to go on from.

    Raises:
        NotFound: there is no such job.
        WrongState: it has not failed, crashed or been cancelled.
        InvalidSpec: a teacher that the spec names is not there any more.
    """
    row = find(session, job_id, locked=True)
    if row.status not in _RETRYABLE:
        hint = "Clone it to run it once more." if row.status == "succeeded" else "Wait for its end, or cancel it first."
        raise WrongState(
            f"{job_id} is {row.status}; what has failed, crashed or was cancelled can be retried.", hint=hint
        )
    sent, resolved = (_as_it_is_now(each, row, max_seconds) for each in (row.sent, row.resolved))
    hold_references(session, resolved)
    new, source = new_id("job"), _source(session, row)
    adjusted = row.adjustments
    add_row(session, new, kind="distillation", sent=sent, resolved=resolved, retry_of=source, adjustments=adjusted)
    return get(session, new)


def _source(session: Session, row: JobRow) -> str:
    """The job whose checkpoints there are to go on from: the nearest of the row and those that it retried."""
    here = row
    while here.retry_of is not None:
        if session.scalar(select(CheckpointRow.id).where(CheckpointRow.job_id == here.id).limit(1)):
            break
        here = find(session, here.retry_of, locked=True)
    return here.id


def clone(session: Session, job_id: str, *, sent: JobSpec, resolved: JobSpec) -> Job:
    """Queue a new job that was made from the spec of this one.

    Raises:
        NotFound: there is no such job.
        InvalidSpec: a teacher is to come from a job or model that does not exist or has no weights.
    """
    find(session, job_id)
    hold_references(session, resolved)
    new = new_id("job")
    add_row(session, new, kind="distillation", sent=sent, resolved=resolved, cloned_from=job_id)
    return get(session, new)


def _as_it_is_now(stored: dict[str, Any], row: JobRow, max_seconds: float | None) -> JobSpec:
    """The spec with what was edited since; what was neither sent nor edited stays out of what counts as sent."""
    spec = JobSpec.model_validate(stored)
    limit = {} if max_seconds is None else {"max_seconds": max_seconds}
    priority = {} if row.priority == spec.resources.priority else {"priority": row.priority}
    called: dict[str, Any] = {
        key: value for key, value in (("name", row.name), ("labels", row.labels)) if value != getattr(spec, key)
    }
    if limit or priority:
        called["resources"] = spec.resources.model_copy(update=limit | priority)
    return spec.model_copy(update=called)
