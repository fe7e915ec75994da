"""What an operator wants to see at a glance."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.tables import JobRow


def jobs_by_status(session: Session) -> dict[str, int]:
    """How many distillation jobs stand in each state, the empty ones left out."""
    statement = select(JobRow.status, func.count()).where(JobRow.kind == "distillation").group_by(JobRow.status)
    return dict(session.execute(statement).all())
