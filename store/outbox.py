"""What is to be done outside the database because of what was committed in it: hints to send, files to delete.

A row is written in the transaction that makes it necessary and goes when the work is done, so it is done at least once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import BindParameter, Double, Table, bindparam, delete, insert, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from store.tables import JobRow, OutboxEntry, has_status, insert_into, now_seconds

Kind = Literal["hint", "delete", "webhook"]
VISIBLE_AGAIN_SECONDS = 30.0
"""A row that was handed out and neither done nor put off is handed out again after this long."""


@dataclass(frozen=True)
class OutboxRow:
    """One thing to do.

    `payload`: {job_id, queue} of a hint, {key} of a file to delete, {delivery_id, webhook_id, tries_before} of a
    webhook message.
    """

    id: int
    kind: str
    payload: dict[str, Any]


def due(
    session: Session, *, kinds: Sequence[Kind], limit: int = 100, where: ColumnElement[bool] | None = None
) -> list[OutboxRow]:
    """Take up to `limit` rows that are due, oldest first; nobody else gets them for the next 30 s.

    Commit, then act, then say `done` or `retry`: no lock is held while a broker is spoken to.
    """
    # A CTE is evaluated once; Postgres may run a locking subquery several times and take more rows than the limit.
    picked = (
        select(OutboxEntry.id)
        .where(
            OutboxEntry.kind.in_(kinds), OutboxEntry.next_try_at <= now_seconds(), *([] if where is None else [where])
        )
        .order_by(OutboxEntry.next_try_at, OutboxEntry.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    statement = (
        update(OutboxEntry)
        .where(OutboxEntry.id.in_(select(picked.c.id)))
        .values(next_try_at=now_seconds() + VISIBLE_AGAIN_SECONDS, tries=OutboxEntry.tries + 1)
        .returning(OutboxEntry.id, OutboxEntry.kind, OutboxEntry.payload)
        .execution_options(synchronize_session=False)
    )
    return sorted((OutboxRow(*row) for row in session.execute(statement)), key=lambda row: row.id)


def done(session: Session, id: int) -> None:  # noqa: A002 - the name of the column
    """Forget a row whose work is done; quietly, when it is gone already."""
    session.execute(delete(OutboxEntry).where(OutboxEntry.id == id))


def retry(session: Session, id: int, *, seconds: float) -> None:  # noqa: A002 - the name of the column
    """Hand the row out again after so many seconds."""
    values = {"next_try_at": now_seconds() + seconds}
    session.execute(update(OutboxEntry).where(OutboxEntry.id == id).values(values))


def hint(session: Session, job_id: str, *, queue: str, wait_seconds: float = 0.0) -> None:
    """Have a hint sent for a queued job, once it may be claimed; replaces one that waits to be sent."""
    forget_hints(session, job_id)
    _write(session, "hint", {"job_id": job_id, "queue": queue}, job_id=job_id, wait_seconds=wait_seconds)


def first_hint(session: Session, job_id: str, *, queue: str) -> None:
    """Have a hint sent for a job that has had none."""
    _write(session, "hint", {"job_id": job_id, "queue": queue}, job_id=job_id)


def forget_hints(session: Session, job_id: str) -> None:
    """Drop the hints of a job that waits no longer, or whose hint was sent by other means."""
    session.execute(_FORGET_HINTS, {"of_job": job_id})


_OUTBOX = cast(Table, OutboxEntry.__table__)
_FORGET_HINTS = delete(_OUTBOX).where(_OUTBOX.c.job_id == bindparam("of_job"), _OUTBOX.c.kind == "hint")


def delete_file(session: Session, key: str) -> None:
    """Have an object of the artifact store deleted after the commit."""
    _write(session, "delete", {"key": key}, job_id=None)


def deliver(session: Session, delivery_id: str, *, webhook_id: str, tries_before: int = 0) -> None:
    """Have a webhook message sent. Its schedule counts from the tries that were made before."""
    payload = {"delivery_id": delivery_id, "webhook_id": webhook_id, "tries_before": tries_before}
    _write(session, "webhook", payload, job_id=None)


def forget_delivery(session: Session, delivery_id: str) -> None:
    """Drop the row that waits to send a webhook message."""
    of_message = OutboxEntry.payload["delivery_id"].as_string() == delivery_id
    session.execute(delete(OutboxEntry).where(OutboxEntry.kind == "webhook", of_message))


def _write(
    session: Session, kind: Kind, payload: dict[str, Any], *, job_id: str | None, wait_seconds: float = 0.0
) -> None:
    values = {"kind": kind, "job_id": job_id, "payload": payload, "wait_seconds": wait_seconds}
    session.execute(_NEW_ROW, values)


_WAITED_FOR: BindParameter[float] = bindparam("wait_seconds", type_=Double())
_NEW_ROW = insert_into(
    OutboxEntry, "kind", "job_id", "payload", next_try_at=now_seconds() + _WAITED_FOR, created_at=now_seconds()
)


def rehint(session: Session, *, older_than_seconds: float, limit: int = 1000) -> int:
    """Write a new hint for each claimable job whose last one is older than this; the broker may have lost it.

    Returns how many. Safe to call from several processes.
    """
    stale = (
        select(JobRow.id)
        .where(
            has_status("queued"),
            JobRow.not_before <= now_seconds(),
            JobRow.hinted_at < now_seconds() - older_than_seconds,
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    statement = (
        update(JobRow)
        .where(JobRow.id.in_(select(stale.c.id)))
        .values(hinted_at=now_seconds())
        .returning(JobRow.id, JobRow.queue)
        .execution_options(synchronize_session=False)
    )
    rows = session.execute(statement).all()
    if rows:
        # All at once: while the rows are locked, every claim passes them over and takes a job that has waited less.
        ids = [job_id for job_id, _ in rows]
        session.execute(delete(OutboxEntry).where(OutboxEntry.kind == "hint", OutboxEntry.job_id.in_(ids)))
        hints = [
            {"kind": "hint", "job_id": job_id, "payload": {"job_id": job_id, "queue": queue}} for job_id, queue in rows
        ]
        now = now_seconds()
        session.execute(insert(_OUTBOX).values(next_try_at=now, created_at=now), hints)
    return len(rows)
