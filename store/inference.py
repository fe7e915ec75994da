"""The processes that answer predictions: where they are, as long as they say so."""

from dataclasses import dataclass, field

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.db import upsert
from store.tables import InferenceWorkerRow, now_seconds

FORGOTTEN_SECONDS = 3600.0
"""Rows of the dead are kept so long, in case one was only cut off and comes back."""


@dataclass(frozen=True)
class InferenceWorker:
    """A process that answers predictions."""

    id: str
    url: str
    token: str = field(repr=False)
    """It answers nobody who does not bring it."""


def announce(session: Session, worker: InferenceWorker, *, alive_seconds: float) -> None:
    """Say that this process is there, for so long; said again, that it still is."""
    values = {"id": worker.id, "url": worker.url, "token": worker.token, "alive_seconds": alive_seconds}
    upsert(session, InferenceWorkerRow, [values], key=["id"], stamp="seen_at")
    session.execute(delete(InferenceWorkerRow).where(InferenceWorkerRow.seen_at < now_seconds() - FORGOTTEN_SECONDS))


def withdraw(session: Session, worker_id: str) -> None:
    """Say that this process is about to leave."""
    session.execute(delete(InferenceWorkerRow).where(InferenceWorkerRow.id == worker_id))


def living(session: Session) -> list[InferenceWorker]:
    """Those that said lately that they are there. One that was killed is among them until its time is over."""
    fresh = InferenceWorkerRow.seen_at + InferenceWorkerRow.alive_seconds > now_seconds()
    rows = session.scalars(select(InferenceWorkerRow).where(fresh).order_by(InferenceWorkerRow.id))
    return [InferenceWorker(row.id, row.url, row.token) for row in rows]
