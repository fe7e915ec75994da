"""What a storm did to the jobs, read from the rows, the events, the files and the witness."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.chaos import watch
from benchmarks.chaos.fleet import TRAINER, Fleet
from benchmarks.chaos.storm import Hit, Record, Storm
from distillery.errors import CorruptFile, NotFound
from distillery.views import TERMINAL
from store import files
from store.artifacts import Artifacts
from store.invariants import violations
from store.tables import ArtifactRow, AttemptRow, EventRow, JobRow

_ENDINGS = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Spread:
    """Of durations in seconds: two ranks and the longest, and how many there were."""

    p50: float
    p95: float
    longest: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """That of these durations; not a number when there are none."""
        found = sorted(values)
        return cls(_rank(found, 0.5), _rank(found, 0.95), _rank(found, 1.0), len(found))

    def __str__(self) -> str:
        return f"{self.p50:.2f} / {self.p95:.2f} / {self.longest:.2f} ({self.count})" if self.count else "none"


@dataclass(frozen=True)
class Recovery:
    """From the kills that cost a job its attempt, until it was in the queue again, and until the next one began."""

    queued: Spread
    begun: Spread


@dataclass(frozen=True)
class Verdict:
    """The figures of one storm. Each list holds a line for every time that the promise was broken."""

    accepted: int
    statuses: Counter[str]
    unconfirmed: int
    """Jobs whose submission was answered with an error although it was committed; they run like any other."""
    lost: list[str]
    twice_by_events: list[str]
    twice_by_attempts: list[str]
    wrong: list[str]
    stale: list[str]
    broken: list[str]
    """Invariants."""
    refused: int
    withdrew: int
    """Attempts that stopped by themselves because their lease could not be renewed."""
    witnessed: int
    attempts: int
    by_celery: int
    starts: int
    worker_recovery: Recovery
    trainer_recovery: Recovery
    done: Counter[str]
    seconds: float
    seed: int

    @property
    def complaints(self) -> list[str]:
        """Everything that must not be; empty when the promise held."""
        kinds = (self.lost, self.twice_by_events, self.twice_by_attempts, self.wrong, self.stale, self.broken)
        return [line for kind in kinds for line in kind]


def judge(storm: Storm) -> Verdict:
    """Look at everything, when no worker runs any more."""
    record, expected = storm.record, uninterrupted(storm.record.accepted.values(), storm.folder / "quiet")
    with storm.database.read() as session:
        statuses = {row.id: row.status for row in session.execute(select(JobRow.id, JobRow.status))}
        noted = watch.seen(session)
        workers = session.scalars(select(AttemptRow.worker)).all()
        return Verdict(
            accepted=len(record.accepted),
            statuses=Counter(statuses.values()),
            unconfirmed=len(statuses.keys() - record.accepted.keys()),
            lost=_lost(session, record, statuses),
            twice_by_events=_twice_by_events(session)
            + [f"The witness saw {job} end twice." for job in noted.ended_twice],
            twice_by_attempts=_twice_by_attempts(session),
            wrong=_wrong(session, storm.artifacts, record, statuses, expected),
            stale=noted.stale + _finished_with_other_files(session),
            broken=violations(session, storm.artifacts, verify=True),
            refused=session.scalar(select(func.sum(AttemptRow.refused_writes))) or 0,
            withdrew=storm.fleet.said("could not be renewed for"),
            witnessed=noted.writes,
            attempts=len(workers),
            by_celery=_by_celery(workers, storm.fleet),
            starts=storm.fleet.starts,
            worker_recovery=_recovery(session, record, [each for each in record.hits if each.role != "trainer"]),
            trainer_recovery=_recovery(session, record, [each for each in record.hits if each.role == "trainer"]),
            done=record.done,
            seconds=record.seconds,
            seed=storm.plan.seed,
        )


def uninterrupted(steps: Iterable[int], folder: Path) -> dict[int, str]:
    """What the trainer delivers after so many steps when nothing disturbs it."""
    return {count: _quiet_run(count, folder / str(count)) for count in sorted(set(steps))}


def _quiet_run(steps: int, folder: Path) -> str:
    folder.mkdir(parents=True)
    job = folder / "job.json"
    job.write_text(json.dumps({"labels": {"steps": str(steps), "pace": "0"}}))
    with Path(os.devnull).open("wb") as nobody:
        told = ["--events-fd", str(nobody.fileno())]
        command = [sys.executable, str(TRAINER), str(job), "--out", str(folder), "--attempt", "1", *told]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, pass_fds=(nobody.fileno(),))
    return (folder / "student.safetensors").read_text()


def _lost(session: Session, record: Record, statuses: dict[str, str]) -> list[str]:
    gone = [f"{job} was accepted and has no row." for job in record.accepted if job not in statuses]
    open_ = [f"{job} is still {status}." for job, status in statuses.items() if status not in TERMINAL]
    failed = session.execute(select(JobRow.id, JobRow.status_reason).where(JobRow.status.in_(("failed", "crashed"))))
    unasked = [
        f"{job} was cancelled, which nobody had asked for."
        for job, status in statuses.items()
        if status == "cancelled" and job not in record.cancelled
    ]
    return gone + open_ + unasked + [f"{job} did not survive: {reason}" for job, reason in failed]


def _twice_by_events(session: Session) -> list[str]:
    ends = select(EventRow.job_id, func.count()).where(EventRow.type.in_(sorted(TERMINAL))).group_by(EventRow.job_id)
    return [f"{job} has {count} final events." for job, count in session.execute(ends.having(func.count() > 1))]


def _twice_by_attempts(session: Session) -> list[str]:
    ends = select(AttemptRow.job_id, func.count()).where(AttemptRow.outcome.in_(_ENDINGS)).group_by(AttemptRow.job_id)
    return [f"{job} was ended by {count} attempts." for job, count in session.execute(ends.having(func.count() > 1))]


def _wrong(
    session: Session, artifacts: Artifacts, record: Record, statuses: dict[str, str], expected: dict[int, str]
) -> list[str]:
    found = []
    for job, steps in record.accepted.items():
        if statuses.get(job) != "succeeded":
            continue
        try:
            key = files.artifact_key(session, job, "student.safetensors")
            digest = b"".join(artifacts.stream(key)).decode(errors="replace")
        except (NotFound, CorruptFile) as error:
            digest = f"nothing ({error.detail})"
        if digest != expected[steps]:
            found.append(f"{job} delivered {digest} after {steps} steps; undisturbed it is {expected[steps]}.")
    return found


def _finished_with_other_files(session: Session) -> list[str]:
    """The attempt that succeeds has delivered the student itself: anything else mixes the work of two."""
    rows = session.execute(
        select(EventRow.job_id, EventRow.attempt, ArtifactRow.attempt)
        .join(ArtifactRow, (ArtifactRow.job_id == EventRow.job_id) & (ArtifactRow.name == "student.safetensors"))
        .where(EventRow.type == "succeeded", ArtifactRow.attempt != EventRow.attempt)
    )
    return [f"{job} succeeded in attempt {end} with the student of attempt {other}." for job, end, other in rows]


def _by_celery(workers: Iterable[str], fleet: Fleet) -> int:
    """Attempts of workers that a hint of Redis had woken. A worker's name ends in its process id."""
    return sum(int(worker.rpartition(":")[2]) not in fleet.embedded_pids for worker in workers)


def _recovery(session: Session, record: Record, hits: list[Hit]) -> Recovery:
    attempts = {(row.job_id, row.attempt): row for row in session.scalars(select(AttemptRow))}
    cost = [
        (hit, attempts[hit.job_id, hit.attempt], attempts[hit.job_id, hit.attempt + 1])
        for hit in hits
        if (hit.job_id, hit.attempt + 1) in attempts
        and attempts[hit.job_id, hit.attempt].outcome in ("lost", "crashed")
        and hit.job_id not in record.paused  # those wait for their user
    ]
    return Recovery(
        queued=Spread.of((hit_attempt.ended_at or math.nan) - hit.at for hit, hit_attempt, _ in cost),
        begun=Spread.of(following.started_at - hit.at for hit, _, following in cost),
    )


def _rank(values: list[float], share: float) -> float:
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
