"""Jobs made from earlier ones: a retry goes on where its predecessor ended, a clone begins anew."""

from sqlalchemy.orm import Session

from distillery.errors import WrongState
from distillery.ids import new_id
from distillery.spec import JobSpec
from distillery.views import Job
from store.jobs import add_row, check_references, find, get

_RETRYABLE = ("failed", "crashed", "cancelled")


def retry(session: Session, job_id: str, *, max_seconds: float | None = None) -> Job:
    """Queue a new job with the same spec and seed, that goes on from the last checkpoint of this one.

    What has ended stays as it ended. `max_seconds` takes the place of the limit in the spec.

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
    sent, resolved = (_limited(JobSpec.model_validate(each), max_seconds) for each in (row.sent, row.resolved))
    check_references(session, resolved)
    new = new_id("job")
    add_row(session, new, kind="distillation", sent=sent, resolved=resolved, retry_of=job_id)
    return get(session, new)


def clone(session: Session, job_id: str, *, sent: JobSpec, resolved: JobSpec) -> Job:
    """Queue a new job that was made from the spec of this one.

    Raises:
        NotFound: there is no such job.
        InvalidSpec: a teacher is to come from a job or model that does not exist or has no weights.
    """
    find(session, job_id)
    check_references(session, resolved)
    new = new_id("job")
    add_row(session, new, kind="distillation", sent=sent, resolved=resolved, cloned_from=job_id)
    return get(session, new)


def _limited(spec: JobSpec, max_seconds: float | None) -> JobSpec:
    if max_seconds is None:
        return spec
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"max_seconds": max_seconds})})
