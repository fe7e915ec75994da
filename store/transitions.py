"""The one guarded UPDATE through which every state of a job changes, with its event row in the same transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from distillery.views import EventType
from store.announcements import announce
from store.tables import LIVE, AttemptRow, EventRow, JobRow, has_status, insert_into, now_seconds


@dataclass(frozen=True)
class Happening:
    """What the event row of a change says."""

    type: EventType
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


def change(
    session: Session,
    job_id: str,
    *,
    guard: ColumnElement[bool],
    values: Mapping[str, Any],
    happening: Happening | None = None,
) -> JobRow | None:
    """Update the row if `guard` still holds, and write what happened. The row as it now is, or None: nothing changed.

    The number of the event is counted up in the same UPDATE, so under the row's lock: no gaps and no doubles.
    """
    counted = {"last_seq": JobRow.last_seq + 1} if happening else {}
    statement = update(JobRow).where(JobRow.id == job_id, guard).values(**values, **counted).returning(JobRow)
    row = session.scalars(statement, execution_options=FRESH).one_or_none()
    if row is not None and happening is not None:
        record(session, row, happening)
    return row


FRESH: Mapping[str, Any] = {"synchronize_session": False, "populate_existing": True}
"""Rows come from the database, never from what the session remembers of them."""


_NEW_EVENT = insert_into(EventRow, "job_id", "seq", "type", "attempt", "message", "data", at=now_seconds()).returning(
    EventRow.at
)


def record(session: Session, row: JobRow, happening: Happening) -> None:
    """Write the event whose number the row has just been given, and what webhooks are told of it."""
    message = storable(happening.message)
    event = {
        "job_id": row.id, "seq": row.last_seq, "type": happening.type, "attempt": row.attempt, "message": message,
        "data": dict(happening.data),
    }  # fmt: skip
    at = session.execute(_NEW_EVENT, event).scalar_one()
    announce(session, row, happening.type, message=message, at=at)


def owned(attempt: int) -> ColumnElement[bool]:
    """The guard of everything a worker writes: the attempt is the fence."""
    return (JobRow.attempt == attempt) & has_status(*LIVE)


def lock(session: Session, job_id: str, *, guard: ColumnElement[bool] | None = None) -> JobRow | None:
    """The row as it is, if `guard` holds of it, kept from changing until the transaction ends."""
    statement = select(JobRow).where(JobRow.id == job_id, *([] if guard is None else [guard])).with_for_update()
    return session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def off_the_worker() -> dict[str, Any]:
    """What changes whenever a job leaves its worker, whatever comes next."""
    return {
        "owner": None,
        "lease_expires_at": None,
        "running_seconds": JobRow.running_seconds + (now_seconds() - JobRow.since),
        "since": now_seconds(),
    }


def end_attempt(session: Session, row: JobRow, *, outcome: str, exit_code: int | None = None) -> None:
    """Close the row of the attempt that the job has just left, at the moment from which its next wait counts."""
    ended = {"ended_at": row.since, "outcome": outcome, "exit_code": exit_code, "last_step": row.step}
    session.execute(_ATTEMPT_ENDS, ended | {"of_job": row.id, "of_attempt": row.attempt})


_ATTEMPTS = cast(Table, AttemptRow.__table__)
_ATTEMPT_ENDS = (
    update(_ATTEMPTS)
    .where(_ATTEMPTS.c.job_id == bindparam("of_job"), _ATTEMPTS.c.attempt == bindparam("of_attempt"))
    .values({name: bindparam(name) for name in ("ended_at", "outcome", "exit_code", "last_step")})
)


def storable(text: str, *, limit: int = 20_000) -> str:
    """Text that Postgres accepts: without NUL and lone surrogates, and of a bounded length."""
    return text[:limit].replace("\x00", "\ufffd").encode(errors="replace").decode()
