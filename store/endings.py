"""How an attempt ends: by its worker's word, by its worker's death, or by the reaper's when there is no word at all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from distillery.errors import Fenced, WrongState
from distillery.ids import new_id
from distillery.report import LatencyReport
from distillery.views import Adjustments, JobError
from store import models as kept
from store import outbox
from store.claims import Claim
from store.config import LeaseConfig
from store.models import ModelFacts
from store.tables import LIVE, AttemptRow, BenchmarkRow, JobRow, has_status, now_seconds
from store.transitions import Happening, change, end_attempt, lock, off_the_worker, owned, storable

_REAPED_AT_ONCE = 100


def fenced(claim: Claim) -> Fenced:
    """The error for a write that came too late."""
    return Fenced(
        f"Attempt {claim.attempt} of {claim.id} may write nothing more: the job has ended or gone on without it."
    )


def succeed(
    session: Session,
    claim: Claim,
    *,
    summary: str,
    models: Sequence[ModelFacts] = (),
    benchmark_result: LatencyReport | None = None,
    keep: Callable[[Session], None] | None = None,
) -> None:
    """End the job well, registering the models it delivered; also when a cancel came too late to stop it.

    `keep` writes, in the same transaction, what else was found.

    Raises:
        Fenced: the attempt no longer owns the job.
        WrongState: a model names an artifact that was not delivered.
    """
    ids = [new_id("mdl") for _ in models]
    students = [id_ for id_, facts in zip(ids, models, strict=True) if facts.role == "student"]
    pointer = {"student_model_id": students[-1]} if students else {}
    _end(session, claim, "succeeded", Happening("succeeded", summary), exit_code=0, values={"error": None, **pointer})
    for id_, facts in zip(ids, models, strict=True):
        kept.register(session, id_, job_id=claim.id, facts=facts)
    if keep is not None:
        keep(session)
    if benchmark_result is not None:
        result = benchmark_result.model_dump(mode="json")
        session.execute(update(BenchmarkRow).where(BenchmarkRow.id == claim.id).values(result=result))


def fail(session: Session, claim: Claim, *, error: JobError, exit_code: int | None = None) -> None:
    """End the job for good: the spec, the data or the numbers are at fault.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    happening = Happening("failed", error.detail, {"code": error.code})
    _end(session, claim, "failed", happening, exit_code=exit_code, values={"error": error.model_dump(mode="json")})


def cancelled(session: Session, claim: Claim) -> None:
    """End the job as it was asked for; its checkpoints stay.

    Raises:
        Fenced: the attempt no longer owns the job.
        WrongState: nobody asked for it.
    """
    if (status := held(session, claim).status) != "cancelling":
        raise WrongState(f"{claim.id} is {status} and nobody asked to cancel it.")
    _end(session, claim, "cancelled", _CANCELLED)


_CANCELLED = Happening("cancelled", "Cancelled while running.")


def paused(session: Session, claim: Claim) -> None:
    """Set the job aside as it was asked for: it waits for its user, and goes on from its last checkpoint.

    A job that is to be cancelled by now is cancelled instead.

    Raises:
        Fenced: the attempt no longer owns the job.
        WrongState: nobody asked for it.
    """
    row = held(session, claim)
    if row.status == "cancelling":
        _end(session, claim, "cancelled", _CANCELLED)
        return
    if row.status != "pausing":
        raise WrongState(f"{claim.id} is {row.status} and nobody asked to pause it.")
    _set_aside(session, row)


def _set_aside(
    session: Session, row: JobRow, *, outcome: str = "paused", values: Mapping[str, Any] | None = None
) -> None:
    reason = "Paused. Resume it, and it goes on from its last checkpoint."
    changed = off_the_worker() | {"status": "paused", "status_reason": reason} | dict(values or {})
    happening = Happening("paused", reason, {"step": row.step})
    after = change(session, row.id, guard=owned(row.attempt), values=changed, happening=happening)
    assert after is not None, "The row was locked by this transaction, yet it changed."  # noqa: S101 - ours to keep
    end_attempt(session, after, outcome=outcome)


def halt(
    session: Session,
    claim: Claim,
    *,
    reason: str,
    detail: str,
    adjustments: Adjustments,
    wait_seconds: float,
    exit_code: int | None = None,
) -> None:
    """Queue the job again: this attempt could not go on as it was, but the next one may, run differently or later.

    `reason` is `out_of_memory`, `diverged` or `disk_full`; none of them counts as a crash. A job that is being paused
    or cancelled is paused or cancelled instead.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    row = held(session, claim)
    changed = {"adjustments": adjustments.model_dump(mode="json")}
    if row.status == "cancelling":
        _end(session, claim, "cancelled", _CANCELLED)
        return
    if row.status == "pausing":
        _set_aside(session, row, outcome="halted", values=changed)
        return
    data = {"reason": reason, "exit_code": exit_code, "wait_seconds": wait_seconds, **changed["adjustments"]}
    values = _queued(detail, wait_seconds=wait_seconds) | changed
    _requeue(session, row, values=values, happening=Happening("requeued", detail, data), outcome="halted")
    outbox.hint(session, row.id, queue=row.queue, wait_seconds=wait_seconds)


def _requeue(session: Session, row: JobRow, *, values: Mapping[str, Any], happening: Happening, outcome: str) -> None:
    after = change(session, row.id, guard=owned(row.attempt), values=values, happening=happening)
    assert after is not None, "The row was locked by this transaction, yet it changed."  # noqa: S101 - ours to keep
    end_attempt(session, after, outcome=outcome, exit_code=happening.data.get("exit_code"))


def held(session: Session, claim: Claim) -> JobRow:
    """The job, locked against every other writer until the transaction ends.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    row = lock(session, claim.id, guard=owned(claim.attempt))
    if row is None:
        raise fenced(claim)
    return row


def refused(session: Session, claim: Claim) -> None:
    """Count, for the record, a write of this attempt that was refused because the job had been taken from it.

    Does nothing when the attempt ended by its own word: a heartbeat that crosses it is refused too, and harmless.
    """
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.job_id == claim.id, AttemptRow.attempt == claim.attempt, AttemptRow.outcome == "lost")
        .values(refused_writes=AttemptRow.refused_writes + 1)
    )


def release(session: Session, claim: Claim) -> None:
    """Give the job back because the worker has to go: it waits again and goes on from its last checkpoint.

    Counts as a preemption, never as a crash. A job that is being paused or cancelled is paused or cancelled instead.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    row = held(session, claim)
    if row.status == "cancelling":
        _end(session, claim, "cancelled", _CANCELLED)
        return
    if row.status == "pausing":
        _set_aside(session, row)
        return
    reason = "The worker had to stop; the job waits to go on from its last checkpoint."
    values = _queued(reason) | {"preemptions": JobRow.preemptions + 1}
    happening = Happening("requeued", reason, {"reason": "preempted"})
    _requeue(session, row, values=values, happening=happening, outcome="preempted")
    outbox.hint(session, row.id, queue=row.queue)


def crash(
    session: Session,
    claim: Claim,
    *,
    exit_code: int | None,
    detail: str,
    lease: LeaseConfig,
    outcome: Literal["crashed", "frozen"] = "crashed",
) -> None:
    """Record that the trainer died without a word: try again after a while, or end the job when that gets nowhere.

    A job that is being cancelled is cancelled instead, one that is being paused is paused.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    row = held(session, claim)
    died = f"The trainer died ({f'exit code {exit_code}' if exit_code is not None else 'no exit code'}): {detail}"
    how = detail if outcome == "frozen" else died
    _lost(session, row, guard=owned(row.attempt), lease=lease, outcome=outcome, exit_code=exit_code, how=how)


def reap(session: Session, *, lease: LeaseConfig) -> list[str]:
    """Take every job away whose lease is over, as if it had crashed; gives their ids. Any process may, at any time."""
    expired = has_status(*LIVE) & (JobRow.lease_expires_at < now_seconds())
    rows = session.scalars(
        select(JobRow)
        .where(expired)
        .order_by(JobRow.lease_expires_at)
        .limit(_REAPED_AT_ONCE)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    for row in rows:
        how = f"Nothing was heard of the worker {row.owner} until its lease was over."
        guard = owned(row.attempt) & expired
        _lost(session, row, guard=guard, lease=lease, outcome="lost", exit_code=None, how=how)
    return [row.id for row in rows]


def outcome(session: Session, claim: Claim) -> str | None:
    """How the attempt ended, or None while it has not: for a worker that does not know whether its word arrived."""
    return session.scalar(
        select(AttemptRow.outcome).where(AttemptRow.job_id == claim.id, AttemptRow.attempt == claim.attempt)
    )


def _end(
    session: Session,
    claim: Claim,
    status: str,
    happening: Happening,
    *,
    exit_code: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    row = change(
        session,
        claim.id,
        guard=owned(claim.attempt),
        values=_ended(status, happening.message) | dict(values or {}),
        happening=happening,
    )
    if row is None:
        raise fenced(claim)
    end_attempt(session, row, outcome=status, exit_code=exit_code)


def _ended(status: str, reason: str) -> dict[str, Any]:
    return off_the_worker() | {"status": status, "status_reason": storable(reason), "finished_at": now_seconds()}


def _queued(reason: str, *, wait_seconds: float = 0.0) -> dict[str, Any]:
    later = {"not_before": now_seconds() + wait_seconds, "hinted_at": now_seconds() + wait_seconds}
    return off_the_worker() | later | {"status": "queued", "status_reason": storable(reason)}


def _lost(
    session: Session,
    row: JobRow,
    *,
    guard: ColumnElement[bool],
    lease: LeaseConfig,
    outcome: str,
    exit_code: int | None,
    how: str,
) -> None:
    """What follows when a worker is gone: paused or cancelled as asked, crashed for good, or queued after a while."""
    further = row.step > row.furthest_crash_step
    stalled = 1 if further else row.stalled_crashes + 1
    counted = {
        "crashes": row.crashes + 1,
        "stalled_crashes": stalled,
        "furthest_crash_step": max(row.step, row.furthest_crash_step),
    }
    wait = lease.backoff_seconds[min(stalled, len(lease.backoff_seconds)) - 1]
    if row.status == "pausing":
        _set_aside(session, row, outcome=outcome, values=counted)
        return
    if row.status == "cancelling":
        values, happening = _ended("cancelled", _CANCELLED.message), _CANCELLED
    elif stalled >= lease.max_stalled_crashes:
        error = _kept_crashing(stalled, step=row.step, how=how)
        values = _ended("crashed", error.detail) | {"error": error.model_dump(mode="json")}
        happening = Happening("crashed", error.detail, {"reason": outcome, "exit_code": exit_code})
    else:
        reason = f"{how} The job goes on from its last checkpoint in {wait:g} s."
        values = _queued(reason, wait_seconds=wait)
        happening = Happening("requeued", reason, {"reason": outcome, "exit_code": exit_code, "wait_seconds": wait})
    after = change(session, row.id, guard=guard, values=values | counted, happening=happening)
    assert after is not None, "The row was locked by this transaction, yet it changed."  # noqa: S101 - ours to keep
    end_attempt(session, after, outcome=outcome, exit_code=exit_code)
    if after.status == "queued":
        outbox.hint(session, after.id, queue=after.queue, wait_seconds=wait)


def _kept_crashing(crashes: int, *, step: int, how: str) -> JobError:
    return JobError(
        type="urn:distillery:error:worker_crash",
        title="The worker kept dying",
        detail=f"{crashes} crashes in a row at or before step {step}, without getting further. The last: {how}",
        code="WORKER_CRASH",
        hint="Look at the events and at the worker's log; a smaller batch helps when memory ran out.",
        retryable=True,
    )
