"""What happened to a job, in order."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from distillery.views import Event
from store import present
from store.jobs import find
from store.tables import EventRow

_LAST_POSSIBLE = 2**31 - 1


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
