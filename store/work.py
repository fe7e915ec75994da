"""Queued work of any kind: its row, its first event and its hint, written together."""

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy.orm import Session

from store import outbox
from store.tables import JobRow, insert_into, now_seconds
from store.transitions import Happening, record

DEFAULT_QUEUE = "default"
IMPORT_PRIORITY = 60
"""Somebody waits for it, and it is short beside a training."""
TRIAL_PRIORITY = 100
_BLANK: Mapping[str, Any] = {
    "subject_id": None, "retry_of": None, "cloned_from": None, "adjustments": {}, "task": "", "strategy": "",
    "labels": {}, "teacher": "", "student": "", "queue": DEFAULT_QUEUE, "priority": IMPORT_PRIORITY,
}  # fmt: skip
_GIVEN = ("id", "kind", "name", *_BLANK, "sent", "resolved", "status", "phases", "latest_metrics", "last_seq")
_NEW_JOB = insert_into(
    JobRow, *_GIVEN, created_at=now_seconds(), since=now_seconds(), hinted_at=now_seconds()
).returning(*JobRow.__table__.c)


def add(session: Session, row_id: str, *, kind: str, name: str, asked: Mapping[str, Any], **more: Any) -> JobRow:
    """Queue work. `asked` is what a worker reads; `more` are columns that differ from those of an import."""
    start = {"sent": dict(asked), "resolved": dict(asked), "status": "queued", "phases": [], "latest_metrics": {}}
    values = {"id": row_id, "kind": kind, "name": name, "last_seq": 1, **_BLANK, **start, **more}
    row = cast(JobRow, session.execute(_NEW_JOB, values).one())
    record(session, row, Happening("queued", f"Queued in '{row.queue}'.", {"priority": row.priority}))
    outbox.first_hint(session, row.id, queue=row.queue)
    return row
