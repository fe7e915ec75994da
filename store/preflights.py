"""Trials of jobs on a worker: claimable work like any other, forgotten after a day."""

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from distillery.errors import NotFound
from distillery.ids import new_id
from distillery.spec import JobSpec
from distillery.views import TERMINAL, Preflight, Rehearsal
from store import present
from store.jobs import add_row
from store.tables import JobRow, PreflightRow, now_seconds
from store.work import TRIAL_PRIORITY

KEPT_SECONDS = 86_400.0


def request(session: Session, *, sent: JobSpec, resolved: JobSpec) -> Preflight:
    """Queue a trial of the job, before every job that waits."""
    row = add_row(session, new_id("pfl"), kind="preflight", sent=sent, resolved=resolved, priority=TRIAL_PRIORITY)
    kept = session.scalars(insert(PreflightRow).values(id=row.id).returning(PreflightRow)).one()
    return present.preflight(row, kept)


def get(session: Session, preflight_id: str) -> Preflight:
    """The trial as it is now.

    Raises:
        NotFound: there is none, or it was forgotten.
    """
    statement = select(JobRow, PreflightRow).join(PreflightRow, PreflightRow.id == JobRow.id)
    known = "\x00" not in preflight_id
    found = session.execute(statement.where(PreflightRow.id == preflight_id)).one_or_none() if known else None
    if found is None:
        raise NotFound(f"There is no trial '{preflight_id[:60]}'.", hint="It may have been forgotten, after a day.")
    return present.preflight(*found)


def keep(session: Session, preflight_id: str, result: Rehearsal) -> None:
    """Record what was found, in the transaction that ends the trial."""
    found = result.model_dump(mode="json")
    session.execute(update(PreflightRow).where(PreflightRow.id == preflight_id).values(result=found))


def sweep(session: Session) -> int:
    """Forget trials that ended more than a day ago; how many there were."""
    old = (
        (JobRow.kind == "preflight")
        & JobRow.status.in_(sorted(TERMINAL))
        & (JobRow.finished_at <= now_seconds() - KEPT_SECONDS)
    )
    return len(session.scalars(delete(JobRow).where(old).returning(JobRow.id)).all())
