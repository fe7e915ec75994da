"""Taking a job: one statement, so that of all who reach for it one gets it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import Double, Executable, Table, bindparam, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from distillery.spec import BenchmarkSpec, JobSpec, LatencySpec
from distillery.spec.imports import DatasetImport, ModelImport
from distillery.views import Adjustments, PhaseName
from store import outbox
from store.tables import AttemptRow, BenchmarkRow, CheckpointRow, JobRow, has_status, insert_into, now_seconds
from store.transitions import Happening, record, storable

Kind = Literal["distillation", "latency", "dataset", "model", "preflight", "benchmark"]
Asked = JobSpec | DatasetImport | ModelImport | BenchmarkSpec
MOST_SECONDS: Mapping[str, float] = {"dataset": 1800.0, "model": 1800.0, "preflight": 600.0}
"""How long these may run."""


@dataclass(frozen=True)
class CheckpointRef:
    """A committed checkpoint: where its file lies and what its bytes must be."""

    id: str
    key: str
    sha256: str
    step: int
    phase: PhaseName


@dataclass(frozen=True)
class Claim:
    """The right to run one job, for as long as no later attempt has it."""

    id: str
    kind: Kind
    attempt: int
    """The fence: named by everything that the worker writes."""
    asked: Asked
    """Of a distillation or a trial the spec as resolved, of a latency measurement that of the job it is about; of what
    is brought along, the import; of a benchmark of any models, that."""
    latency: LatencySpec | None
    """What to measure; None for a distillation."""
    subject_id: str | None
    """The job that a latency measurement is about."""
    checkpoints: tuple[CheckpointRef, ...]
    """To go on from, newest first; the older ones for when the newest is damaged. Those of the job that this one
    retries come last."""
    adjustments: Adjustments
    """How this attempt runs differently from the spec, because of what earlier ones met."""
    seconds_left: float | None
    """Of the running time that is allowed; None without a limit."""

    @property
    def spec(self) -> JobSpec:
        """The job spec of work that has one."""
        if not isinstance(self.asked, JobSpec):
            raise AssertionError(f"{self.id} is no job: it has no spec.")
        return self.asked


def claim(
    session: Session, *, worker: str, queues: Sequence[str], lease_seconds: float, job_id: str | None = None
) -> Claim | None:
    """Take the next job that waits in one of the queues, or that very job; None when there is nothing to take.

    Highest priority first, then in the order of submission. Begins a new attempt.
    """
    asked = {"worker": storable(worker, limit=255), "queues": list(queues), "lease_seconds": lease_seconds}
    if job_id is None:
        row = session.execute(_TAKE_FIRST, asked).one_or_none()
    else:
        row = session.execute(_TAKE_NAMED, asked | {"job_id": job_id}).one_or_none()
    return None if row is None else _begun(session, cast(JobRow, row))


def _take(*conditions: ColumnElement[bool]) -> Executable:
    """The statement that takes the first of the jobs that wait and meet the conditions."""
    in_queues = JobRow.queue.in_(bindparam("queues", expanding=True))
    waiting = select(JobRow.id).where(has_status("queued"), JobRow.not_before <= now_seconds(), in_queues, *conditions)
    first = waiting.order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id).limit(1)
    taken = first.with_for_update(skip_locked=True).correlate(None).scalar_subquery()
    resumed_at = select(CheckpointRow.step).where(CheckpointRow.id == JobRow.checkpoint_id).scalar_subquery()
    retried_at = (
        select(func.max(CheckpointRow.step)).where(CheckpointRow.job_id == JobRow.retry_of).correlate(JobRow)
    ).scalar_subquery()
    return (
        update(cast(Table, JobRow.__table__))
        .where(JobRow.id == taken, has_status("queued"))
        .values(
            status="running",
            status_reason="",
            attempt=JobRow.attempt + 1,
            owner=bindparam("worker"),
            lease_expires_at=now_seconds() + bindparam("lease_seconds", type_=Double()),
            step=func.coalesce(resumed_at, retried_at, 0),
            started_at=func.coalesce(JobRow.started_at, now_seconds()),
            queued_seconds=JobRow.queued_seconds + (now_seconds() - JobRow.since),
            since=now_seconds(),
            last_seq=JobRow.last_seq + 1,
        )
        .returning(*JobRow.__table__.c)
    )


_TAKE_FIRST, _TAKE_NAMED = _take(), _take(JobRow.id == bindparam("job_id"))


_ASKED: Mapping[str, type[Asked]] = {
    "dataset": DatasetImport, "model": ModelImport, "benchmark": BenchmarkSpec,
}  # fmt: skip
_NEW_ATTEMPT = insert_into(AttemptRow, "job_id", "attempt", "worker", "started_at", "first_step")


def _begun(session: Session, row: JobRow) -> Claim:
    attempt = {"job_id": row.id, "attempt": row.attempt, "worker": row.owner}
    session.execute(_NEW_ATTEMPT, attempt | {"started_at": row.since, "first_step": row.step})
    data = {"worker": row.owner, "step": row.step}
    record(session, row, Happening("started", f"Attempt {row.attempt} started on {row.owner}.", data))
    outbox.forget_hints(session, row.id)
    measured = session.get(BenchmarkRow, row.id) if row.kind == "latency" else None
    asked = _ASKED.get(row.kind, JobSpec).model_validate(row.resolved)
    limit = MOST_SECONDS.get(row.kind)
    if row.kind == "distillation" and isinstance(asked, JobSpec):
        limit = asked.resources.max_seconds
    return Claim(
        id=row.id,
        kind=cast(Kind, row.kind),
        attempt=row.attempt,
        asked=asked,
        latency=LatencySpec.model_validate(measured.spec) if measured else None,
        subject_id=row.subject_id,
        checkpoints=(_checkpoints(session, row.id) if row.checkpoint_id else ())
        + (_checkpoints(session, row.retry_of) if row.retry_of else ()),
        adjustments=Adjustments.model_validate(row.adjustments),
        seconds_left=None if limit is None else limit - row.running_seconds,
    )


def _checkpoints(session: Session, job_id: str) -> tuple[CheckpointRef, ...]:
    rows = session.scalars(
        select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.seq.desc())
    )
    return tuple(reference(row) for row in rows)


def reference(row: CheckpointRow) -> CheckpointRef:
    """The value of a row."""
    return CheckpointRef(row.id, row.key, row.sha256, row.step, cast(PhaseName, row.phase))
