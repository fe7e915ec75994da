"""What happened to a job, in order."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from distillery.views import Event
from store import present
from store.jobs import find
from store.tables import EventRow, JobRow

_LAST_POSSIBLE = 2**31 - 1


class Standing(NamedTuple):
    """How far a job has come."""

    seq: int
    """The number of its last event."""
    status: str


def standings(session: Session, job_ids: Sequence[str]) -> dict[str, Standing]:
    """How far each of these jobs has come, in one statement; jobs that are gone are left out."""
    rows = session.execute(select(JobRow.id, JobRow.last_seq, JobRow.status).where(JobRow.id.in_(job_ids)))
    return {row.id: Standing(row.last_seq, row.status) for row in rows}


def standing(session: Session, job_id: str) -> Standing:
    """How far a job has come.

    Raises:
        NotFound: there is no such job.
    """
    row = find(session, job_id)
    return Standing(row.last_seq, row.status)


def after(session: Session, job_id: str, *, seq: int = 0, limit: int = 100) -> list[Event]:
    """The events that follow number `seq`, oldest first, at most `limit`.

    Raises:
        NotFound: there is no such job.
    """
    statement = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.seq > min(max(seq, 0), _LAST_POSSIBLE))
        .order_by(EventRow.seq)
        .limit(limit)
    )
    rows = session.scalars(statement).all() if "\x00" not in job_id else ()
    if not rows:
        find(session, job_id)
    return [present.event(row) for row in rows]
