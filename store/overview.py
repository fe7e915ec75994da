"""What an operator wants to see at a glance."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.tables import AttemptRow, JobRow, OutboxEntry


def jobs_by_status(session: Session) -> dict[str, int]:
    """How many distillation jobs stand in each state, the empty ones left out."""
    statement = select(JobRow.status, func.count()).where(JobRow.kind == "distillation").group_by(JobRow.status)
    return dict(session.execute(statement).all())


def refused_writes(session: Session) -> int:
    """How many writes of attempts that had lost their job were refused, in all jobs that are kept."""
    return session.scalar(select(func.coalesce(func.sum(AttemptRow.refused_writes), 0))) or 0


def outbox_by_kind(session: Session) -> dict[str, int]:
    """How many hints, deletions and webhook messages wait to be done."""
    return dict(session.execute(select(OutboxEntry.kind, func.count()).group_by(OutboxEntry.kind)).all())
