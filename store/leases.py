"""What a worker may do to a job: claim it, keep it, record what happens, and end it or give it back.

Every function that takes a `Claim` raises Fenced, and writes nothing, once another attempt owns the job or it has
ended. Call them within `Database.transaction()`. When the answer to a commit is lost (Unavailable), call again:
checkpoints, artifacts and metrics overwrite themselves, and after a Fenced `outcome` tells whether the attempt ended by
the very word that was said again.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

from sqlalchemy import case, delete, select, update
from sqlalchemy.orm import Session

from distillery.ids import new_id
from distillery.spec import JobSpec
from distillery.views import Estimate, EventType, PhaseName, Progress
from store import outbox
from store.claims import CheckpointRef, Claim, claim, reference
from store.db import upsert
from store.endings import cancelled, crash, fail, fenced, halt, held, outcome, paused, reap, refused, release, succeed
from store.models import ModelFacts
from store.tables import ArtifactRow, CheckpointRow, JobRow, MetricRow, now_seconds
from store.transitions import Happening, change, owned

__all__ = [
    "CheckpointRef", "Claim", "ModelFacts", "Wish", "artifact", "beat", "cancelled", "checkpoint", "claim", "crash",
    "estimated", "event", "fail", "halt", "metrics", "outcome", "paused", "phase", "reap", "refused", "release",
    "resolved", "succeed",
]  # fmt: skip

Wish = Literal["go on", "pause", "cancel"]
"""What the user wants of a job that runs."""
_WISHES: Mapping[str, Wish] = {"running": "go on", "pausing": "pause", "cancelling": "cancel"}


def beat(
    session: Session,
    claim: Claim,
    *,
    lease_seconds: float,
    step: int | None = None,
    progress: Progress | None = None,
) -> Wish:
    """Renew the lease and tell how far the job is; answers what its user wants. Never changes the attempt.

    A lease that is over but was not taken away yet is renewed too: the attempt keeps the data safe, not the lease.

    Raises:
        Fenced: the attempt no longer owns the job; kill the trainer.
    """
    values: dict[str, Any] = {"lease_expires_at": now_seconds() + lease_seconds}
    if step is not None:
        # What is told is older than the checkpoint that may have been stored since.
        values["step"] = case((JobRow.step > step, JobRow.step), else_=step)
    if progress is not None:
        values["progress"] = progress.model_dump(mode="json")
    statement = update(JobRow).where(JobRow.id == claim.id, owned(claim.attempt)).values(**values)
    status = session.scalar(statement.returning(JobRow.status), execution_options={"synchronize_session": False})
    if status is None:
        raise fenced(claim)
    return _WISHES[status]


def event(
    session: Session,
    claim: Claim,
    type: EventType,  # noqa: A002 - the name of the field
    message: str,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Record that something happened.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    _write(session, claim, {}, Happening(type, message, data or {}))


def phase(session: Session, claim: Claim, name: PhaseName) -> None:
    """Enter a phase; the one before it is over.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    row = held(session, claim)
    if row.phases and (row.phases[-1]["name"], row.phases[-1]["attempt"]) == (name, claim.attempt):
        return  # said again, because the answer to the first time was lost
    entry = {"name": name, "attempt": claim.attempt, "started_at": session.scalar(select(now_seconds()))}
    _write(session, claim, {"phases": [*row.phases, entry]}, Happening("phase", f"Now {name}.", {"phase": name}))


def resolved(session: Session, claim: Claim, spec: JobSpec) -> None:
    """Keep the spec as it really runs: precision, device and provenance filled in.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    sent = spec.model_dump(mode="json")
    data = {"precision": spec.training.precision, "device": spec.training.device}
    _write(session, claim, {"resolved": sent}, Happening("resolved", "Precision, device and data are settled.", data))


def estimated(session: Session, claim: Claim, estimate: Estimate) -> None:
    """Keep what the job will take, as a burst on its worker told.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    told = estimate.model_dump(mode="json")
    seconds = estimate.seconds
    span = f"{seconds.low:,.0f} to {seconds.high:,.0f} s" if seconds else "a time that is not known"
    _write(session, claim, {"estimate": told}, Happening("estimated", f"It will take {span}.", told))


def metrics(session: Session, claim: Claim, *, step: int, values: Mapping[str, float | None]) -> None:
    """Record values of series at a step; a step that is told again overwrites. What is not finite is kept as null.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    latest = session.scalar(
        select(JobRow.latest_metrics).where(JobRow.id == claim.id, owned(claim.attempt)).with_for_update()
    )
    if latest is None:
        raise fenced(claim)
    finite = {key: value if value is not None and isfinite(value) else None for key, value in values.items()}
    if not finite:
        return
    merged = {key: value for key, value in (latest | finite).items() if value is not None}
    _write(session, claim, {"latest_metrics": merged})
    rows = [{"job_id": claim.id, "key": key, "step": step, "value": value} for key, value in finite.items()]
    upsert(session, MetricRow, rows, key=("job_id", "key", "step"))


def checkpoint(
    session: Session, claim: Claim, *, key: str, sha256: str, size_bytes: int, step: int, phase: PhaseName
) -> CheckpointRef:
    """Commit a checkpoint whose file is already in the artifact store; the job goes on from it if this attempt dies.

    Of all checkpoints of the job the newest `training.keep` stay; the files of the others are deleted by the outbox.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    job = held(session, claim)
    before = _same_step(session, claim, step=step)
    if before and (before.key, before.sha256) == (key, sha256):
        return reference(before)  # said again, because the answer to the first time was lost
    id_ = before.id if before else new_id("ckp")
    happening = Happening("checkpoint", f"Saved at step {step}.", {"checkpoint_id": id_, "step": step, "phase": phase})
    row = _write(session, claim, {"checkpoint_id": id_, "step": max(job.step, step)}, happening)
    stored = {
        "id": id_, "job_id": claim.id, "attempt": claim.attempt, "step": step, "seq": row.last_seq, "phase": phase,
        "key": key, "sha256": sha256, "size_bytes": size_bytes,
    }  # fmt: skip
    upsert(session, CheckpointRow, [stored], key=("job_id", "attempt", "step"), stamp="created_at")
    if before and before.key != key:
        outbox.delete_file(session, before.key)
    _prune(session, claim.id, keep=int(row.resolved["training"]["keep"]))
    return CheckpointRef(id_, key, sha256, step, phase)


def artifact(
    session: Session, claim: Claim, *, name: str, key: str, media_type: str, sha256: str, size_bytes: int
) -> None:
    """Record a delivered file that is already in the artifact store; one of an earlier attempt is replaced.

    Raises:
        Fenced: the attempt no longer owns the job.
    """
    held(session, claim)
    told = select(ArtifactRow.key, ArtifactRow.sha256, ArtifactRow.attempt)
    row = session.execute(told.where(ArtifactRow.job_id == claim.id, ArtifactRow.name == name)).one_or_none()
    if row is not None and tuple(row) == (key, sha256, claim.attempt):
        return  # said again, because the answer to the first time was lost
    before = None if row is None else row.key
    data = {"name": name, "size_bytes": size_bytes, "sha256": sha256}
    _write(session, claim, {}, Happening("artifact", f"{name} is ready.", data))
    stored = {
        "job_id": claim.id, "name": name, "attempt": claim.attempt, "key": key, "media_type": media_type,
        "sha256": sha256, "size_bytes": size_bytes,
    }  # fmt: skip
    upsert(session, ArtifactRow, [stored], key=("job_id", "name"), stamp="created_at")
    if before is not None and before != key:
        outbox.delete_file(session, before)


def _write(session: Session, claim: Claim, values: Mapping[str, Any], happening: Happening | None = None) -> JobRow:
    row = change(session, claim.id, guard=owned(claim.attempt), values=values, happening=happening)
    if row is None:
        raise fenced(claim)
    return row


def _same_step(session: Session, claim: Claim, *, step: int) -> CheckpointRow | None:
    return session.scalar(
        select(CheckpointRow).where(
            CheckpointRow.job_id == claim.id, CheckpointRow.attempt == claim.attempt, CheckpointRow.step == step
        )
    )


def _prune(session: Session, job_id: str, *, keep: int) -> None:
    surplus = (
        select(CheckpointRow.id, CheckpointRow.key)
        .where(CheckpointRow.job_id == job_id)
        .order_by(CheckpointRow.seq.desc())
        .offset(keep)
    )
    for id_, key in session.execute(surplus).all():
        session.execute(delete(CheckpointRow).where(CheckpointRow.id == id_))
        outbox.delete_file(session, key)
