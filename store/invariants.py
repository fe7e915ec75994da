"""What must hold of the database and the artifact store at any moment, whatever died and when.

python -m store.invariants          (with the environment of the service; exit code 1 when one is broken)
"""

import sys
from collections.abc import Iterator

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session, aliased

from distillery.errors import DistilleryError
from distillery.views import TERMINAL
from store import orphans
from store.artifacts import Artifacts
from store.config import StoreConfig
from store.db import Database
from store.tables import LIVE, AttemptRow, CheckpointRow, EventRow, JobRow, OutboxEntry

_FINAL = sorted(TERMINAL)
_SHOWN = 20
"""Of each kind of violation."""


def violations(session: Session, artifacts: Artifacts | None = None, *, verify: bool = False) -> list[str]:
    """Every invariant that is broken, in words; an empty list when all hold.

    With `artifacts`, every committed file must be there in its size; with `verify`, its hash must match too.

    Raises:
        Unavailable: the database or the artifact store is out of reach.
    """
    found = [line for check in _CHECKS for line in check(session)]
    if artifacts is not None:
        found += [str(each) for each in orphans.missing(session, artifacts, verify=verify)]
    return found


def _one_end(session: Session) -> Iterator[str]:
    """A terminal job has one terminal event, its last one; any other job has none."""
    ends = func.sum(case((EventRow.type.in_(_FINAL), 1), else_=0))
    at = func.max(case((EventRow.type.in_(_FINAL), EventRow.seq), else_=0))
    statement = (
        select(JobRow.id, JobRow.status, JobRow.last_seq, ends, at)
        .outerjoin(EventRow, EventRow.job_id == JobRow.id)
        .group_by(JobRow.id, JobRow.status, JobRow.last_seq)
        .having(
            or_(
                JobRow.status.in_(_FINAL) & (ends != 1),
                JobRow.status.not_in(_FINAL) & (ends != 0),
            )
        )
        .limit(_SHOWN)
    )
    for job_id, status, _, count, _ in session.execute(statement):
        yield f"{job_id} is {status} and has {count} final events."


def _events_without_gaps(session: Session) -> Iterator[str]:
    counted, lowest, highest = func.count(EventRow.seq), func.min(EventRow.seq), func.max(EventRow.seq)
    statement = (
        select(JobRow.id, JobRow.last_seq, counted, lowest, highest)
        .outerjoin(EventRow, EventRow.job_id == JobRow.id)
        .group_by(JobRow.id, JobRow.last_seq)
        .having(or_(counted != JobRow.last_seq, lowest != 1, highest != JobRow.last_seq))
        .limit(_SHOWN)
    )
    for job_id, last, count, low, high in session.execute(statement):
        yield f"{job_id} has {count} events, numbered {low} to {high}, and says that there were {last}."


def _attempts_in_order(session: Session) -> Iterator[str]:
    """Numbered 1 to the job's own; all have ended but the one that runs; at most one ended the job."""
    open_ = func.sum(case((AttemptRow.attempt.is_not(None) & AttemptRow.ended_at.is_(None), 1), else_=0))
    ended = func.sum(case((AttemptRow.outcome.in_(("succeeded", "failed", "cancelled")), 1), else_=0))
    statement = (
        select(JobRow.id, JobRow.status, JobRow.attempt, func.count(AttemptRow.attempt), open_, ended)
        .outerjoin(AttemptRow, AttemptRow.job_id == JobRow.id)
        .group_by(JobRow.id, JobRow.status, JobRow.attempt)
        .having(
            or_(
                func.count(AttemptRow.attempt) != JobRow.attempt,
                func.coalesce(open_, 0) != case((JobRow.status.in_(LIVE), 1), else_=0),
                func.coalesce(ended, 0) > 1,
            )
        )
        .limit(_SHOWN)
    )
    for job_id, status, attempt, count, open_count, ends in session.execute(statement):
        yield (
            f"{job_id} is {status} in attempt {attempt} and has {count} attempts, of which {open_count} have not ended "
            f"and {ends} ended the job."
        )


def _owners(session: Session) -> Iterator[str]:
    """Somebody owns a job exactly while it runs."""
    owned = JobRow.owner.is_not(None) | JobRow.lease_expires_at.is_not(None)
    held = JobRow.owner.is_not(None) & JobRow.lease_expires_at.is_not(None)
    wrong = (JobRow.status.in_(LIVE) & ~held) | (JobRow.status.not_in(LIVE) & owned)
    for job_id, status, owner in session.execute(
        select(JobRow.id, JobRow.status, JobRow.owner).where(wrong).limit(_SHOWN)
    ):
        yield f"{job_id} is {status} and its owner is {owner}."
    unfinished = (JobRow.finished_at.is_(None)) == JobRow.status.in_(_FINAL)
    for job_id, status in session.execute(select(JobRow.id, JobRow.status).where(unfinished).limit(_SHOWN)):
        yield f"{job_id} is {status}, and its time of ending says otherwise."


def _checkpoints_in_order(session: Session) -> Iterator[str]:
    """In the order of their commits neither the attempt nor, within one, the step goes back."""
    later = aliased(CheckpointRow)
    statement = (
        select(CheckpointRow.job_id, CheckpointRow.attempt, CheckpointRow.step, later.attempt, later.step)
        .join(later, (later.job_id == CheckpointRow.job_id) & (later.seq > CheckpointRow.seq))
        .where(
            or_(
                later.attempt < CheckpointRow.attempt,
                (later.attempt == CheckpointRow.attempt) & (later.step < CheckpointRow.step),
            )
        )
        .limit(_SHOWN)
    )
    for job_id, attempt, step, later_attempt, later_step in session.execute(statement):
        yield (
            f"{job_id} has a checkpoint of attempt {later_attempt}, step {later_step} committed after one of attempt "
            f"{attempt}, step {step}."
        )


def _hints_for_waiting_jobs(session: Session) -> Iterator[str]:
    """A hint belongs to a job that waits: one for any other would be a promise that was not taken back."""
    statement = (
        select(OutboxEntry.job_id, JobRow.status)
        .outerjoin(JobRow, JobRow.id == OutboxEntry.job_id)
        .where(OutboxEntry.kind == "hint", func.coalesce(JobRow.status, "gone") != "queued")
        .limit(_SHOWN)
    )
    for job_id, status in session.execute(statement):
        yield f"{job_id} is {status or 'gone'}, and a hint for it waits in the outbox."


_CHECKS = (_one_end, _events_without_gaps, _attempts_in_order, _owners, _checkpoints_in_order, _hints_for_waiting_jobs)


def main() -> int:
    """Check the service of this environment; 0 when all holds, 1 when not, 2 when it is out of reach."""
    try:
        config = StoreConfig.from_environment()
        database, artifacts = Database(config.database_url), Artifacts(config.artifacts_url)
        with database.read() as session:
            found = violations(session, artifacts, verify=True)
        database.close()
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in found) or "Everything holds.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
