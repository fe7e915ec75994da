"""Any order of submits, claims, beats, crashes, pauses and cancels leaves a store that makes sense."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from distillery.errors import Fenced, WrongState
from distillery.spec import parse, resolve
from distillery.views import TERMINAL, Adjustments, JobError
from store import jobs, leases, wishes
from store.config import LeaseConfig
from store.db import Database
from store.invariants import violations

LEASE = LeaseConfig(backoff_seconds=(1000.0,))
KEEP = 1
MOST_JOBS = 3
EXAMPLES = 25
STEPS = 35
SPEC = parse(
    {
        "dataset": {"name": "digits"},
        "teacher": {"architecture": "seed_teacher", "train": {"epochs": 1}},
        "student": {"architecture": "seed_student"},
        "training": {"keep": KEEP},
    }
)
ERROR = JobError(type="urn:test", title="Bad data", detail="The data is bad.", code="UNREADABLE_DATA")


@dataclass
class Expected:
    """What a job must be, by a few lines of plain Python."""

    id: str
    priority: int
    status: str = "queued"
    attempt: int = 0
    ready: bool = True
    expired: bool = False
    step: int = 0
    saved: list[int] = field(default_factory=list)
    furthest: int = 0
    stalled: int = 0
    outcomes: list[str] = field(default_factory=list)

    @property
    def live(self) -> bool:
        return self.status in ("running", "pausing", "cancelling")

    def end(self, status: str, outcome: str) -> None:
        self.status, self.ready, self.expired = status, True, False
        self.outcomes.append(outcome)

    def lose(self, outcome: str) -> None:
        self.stalled = 1 if self.step > self.furthest else self.stalled + 1
        self.furthest = max(self.furthest, self.step)
        if self.status == "cancelling":
            self.end("cancelled", outcome)
        elif self.status == "pausing":
            self.end("paused", outcome)
        elif self.stalled >= LEASE.max_stalled_crashes:
            self.end("crashed", outcome)
        else:
            self.end("queued", outcome)
            self.ready = False


class Store(RuleBasedStateMachine):
    """The store, and beside it what we expect of it."""

    database: Database
    claims: Bundle[Any] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.sql("DELETE FROM jobs")
        self.sql("DELETE FROM outbox")

    def do(self, verb: Any, *arguments: Any, **options: Any) -> Any:
        with self.database.transaction() as session:
            return verb(session, *arguments, **options)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as session:
            result: Any = session.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def guarded(self, claim: Any, verb: Any, **options: Any) -> Expected | None:
        """Do it; the expected job when the attempt owns it, None when it was rightly refused."""
        job = self.expected[claim.id]
        if job.live and job.attempt == claim.attempt:
            self.do(verb, claim, **options)
            return job
        with pytest.raises(Fenced):
            self.do(verb, claim, **options)
        return None

    @initialize(target=claims)
    def begin(self) -> Any:
        """A deed that does nothing is a test wasted: begin with a job that runs and one that waits."""
        self.submit(2)
        self.submit(1)
        return self.take()

    @precondition(lambda self: len(self.expected) < MOST_JOBS)
    @rule(priority=st.integers(0, 2))
    def submit(self, priority: int) -> None:
        spec = SPEC.model_copy(update={"resources": SPEC.resources.model_copy(update={"priority": priority})})
        job = self.do(jobs.submit, sent=spec, resolved=resolve(spec))
        self.expected[job.id] = Expected(job.id, priority)

    @precondition(lambda self: any(job.status == "queued" for job in self.expected.values()))
    @rule(target=claims, after_a_while=st.sampled_from([True, True, True, False]))
    def claim(self, after_a_while: bool) -> Any:
        if after_a_while:  # the waits after crashes have passed
            self.sql("UPDATE jobs SET not_before = 0")
            for job in self.expected.values():
                job.ready = True
        return self.take()

    def take(self) -> Any:
        waiting = [job for job in self.expected.values() if job.status == "queued" and job.ready]
        claim = self.do(leases.claim, worker="w", queues=["default"], lease_seconds=1000)
        if not waiting:
            assert claim is None
            return multiple()
        best = max(job.priority for job in waiting)
        job = self.expected[claim.id]
        assert job in waiting and job.priority == best
        assert [reference.step for reference in claim.checkpoints] == job.saved[::-1][:KEEP]
        job.status, job.attempt = "running", job.attempt + 1
        job.step = job.saved[-1] if job.saved else 0
        assert claim.attempt == job.attempt
        return claim

    @rule(claim=claims, how=st.sampled_from(["beat", "checkpoint", "metrics", "event"]), step=st.integers(1, 5))
    def go_on(self, claim: Any, how: str, step: int) -> None:
        at = self.expected[claim.id].step + step
        if how == "beat":
            if job := self.guarded(claim, leases.beat, lease_seconds=1000, step=at):
                job.step, job.expired = at, False
        elif how == "checkpoint":
            key = f"jobs/{claim.id}/a{claim.attempt}/step-{at}.ckpt"
            told = {"key": key, "sha256": "0" * 64, "size_bytes": 1, "step": at, "phase": "training"}
            if job := self.guarded(claim, leases.checkpoint, **told):
                job.step = at
                job.saved.append(at)
        elif how == "metrics":
            self.guarded(claim, leases.metrics, step=1, values={"loss": 1.0})
        else:
            self.guarded(claim, leases.event, type="warning", message="careful")

    @rule(claim=claims)
    def crash(self, claim: Any) -> None:
        if job := self.guarded(claim, leases.crash, exit_code=-9, detail="killed", lease=LEASE):
            job.lose("crashed")

    @rule(claim=claims)
    def release(self, claim: Any) -> None:
        if job := self.guarded(claim, leases.release):
            job.end(*_RELEASED[job.status])

    @rule(claim=claims)
    def halt(self, claim: Any) -> None:
        told = {"reason": "out_of_memory", "detail": "Memory ran out.", "wait_seconds": 0.0}
        if job := self.guarded(claim, leases.halt, adjustments=Adjustments(micro_batches=2), **told):
            status, _ = _RELEASED[job.status]
            job.end(status, "cancelled" if status == "cancelled" else "halted")

    @precondition(lambda self: len(self.expected) == MOST_JOBS)  # so that jobs live long enough
    @rule(claim=claims, how=st.sampled_from(["succeeded", "failed", "cancelled", "paused"]))
    def finish(self, claim: Any, how: str) -> None:
        job: Expected | None = self.expected[claim.id]
        assert job is not None
        if how == "succeeded":
            job = self.guarded(claim, leases.succeed, summary="done")
        elif how == "failed":
            job = self.guarded(claim, leases.fail, error=ERROR)
        else:
            self.as_asked(claim, job, how)
            return
        if job:
            job.end(how, how)

    def as_asked(self, claim: Any, job: Expected, how: str) -> None:
        """The end of an attempt that only its user could have asked for."""
        verb, fitting = (leases.cancelled, ("cancelling",)) if how == "cancelled" else (
            leases.paused, ("pausing", "cancelling")
        )  # fmt: skip
        if job.live and job.attempt == claim.attempt and job.status not in fitting:
            with pytest.raises(WrongState):
                self.do(verb, claim)
        elif self.guarded(claim, verb):
            then = "cancelled" if job.status == "cancelling" else "paused"
            job.end(then, then)

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        job = self.expected[data.draw(st.sampled_from(sorted(self.expected)))]
        if job.status in TERMINAL or job.status == "cancelling":
            with pytest.raises(WrongState):
                self.do(wishes.pause, job.id)
        else:
            self.do(wishes.pause, job.id)
            job.status = {"queued": "paused", "running": "pausing"}.get(job.status, job.status)

    @precondition(lambda self: any(job.status == "paused" for job in self.expected.values()))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        paused = sorted(job.id for job in self.expected.values() if job.status == "paused")
        job = self.expected[data.draw(st.sampled_from(paused))]
        self.do(wishes.resume, job.id)
        job.status, job.ready = "queued", True

    @rule(data=st.data())
    def request_cancel(self, data: st.DataObject) -> None:
        job = self.expected[data.draw(st.sampled_from(sorted(self.expected)))]
        if job.status in TERMINAL:
            with pytest.raises(WrongState):
                self.do(wishes.cancel, job.id)
        else:
            self.do(wishes.cancel, job.id)
            job.status = "cancelled" if job.status in ("queued", "paused") else "cancelling"

    @rule(claim=claims)
    def expire(self, claim: Any) -> None:
        job = self.expected[claim.id]
        if job.live:
            self.sql("UPDATE jobs SET lease_expires_at = 1 WHERE id = :id", id=job.id)
            job.expired = True

    @precondition(lambda self: any(job.expired for job in self.expected.values()))
    @rule()
    def reap(self) -> None:
        lost = [job for job in self.expected.values() if job.live and job.expired]
        assert sorted(self.do(leases.reap, lease=LEASE)) == sorted(job.id for job in lost)
        for job in lost:
            job.lose("lost")

    @invariant()
    def everything_makes_sense(self) -> None:
        with self.database.read() as session:
            found = {
                table: session.execute(text(f"SELECT * FROM {table} ORDER BY {order}")).mappings().all()  # noqa: S608
                for table, order in _ORDERS.items()
            }
        assert {row["id"] for row in found["jobs"]} == set(self.expected)
        hinted = Counter(row["job_id"] for row in found["outbox"] if row["kind"] == "hint")
        for row in found["jobs"]:
            job = self.expected[row["id"]]
            own = {table: [each for each in rows if each.get("job_id") == job.id] for table, rows in found.items()}
            check_row(job, row)
            check_attempts(job, row, own["attempts"])
            check_events(job, row, own["events"])
            check_checkpoints(job, row, own["checkpoints"])
            assert hinted[job.id] == (1 if job.status == "queued" else 0)
        with self.database.read() as session:
            assert violations(session) == []
        # Every file that was ever committed is kept, or on its way out; none is both.
        doomed = [row for row in found["outbox"] if row["kind"] == "delete"]
        assert len(doomed) + len(found["checkpoints"]) == sum(len(job.saved) for job in self.expected.values())


_RELEASED = {
    "running": ("queued", "preempted"), "pausing": ("paused", "paused"), "cancelling": ("cancelled", "cancelled"),
}  # fmt: skip
"""What a released job becomes, and how its attempt ended."""
_ORDERS = {"jobs": "id", "attempts": "attempt", "events": "seq", "checkpoints": "seq", "outbox": "id"}


def check_row(job: Expected, row: Any) -> None:
    assert (row["status"], row["attempt"], row["step"]) == (job.status, job.attempt, job.step)
    assert (row["owner"] is not None) == (row["lease_expires_at"] is not None) == job.live
    assert (row["finished_at"] is not None) == (job.status in TERMINAL)
    assert row["queued_seconds"] >= 0 and row["running_seconds"] >= 0


def check_attempts(job: Expected, row: Any, attempts: list[Any]) -> None:
    assert [each["attempt"] for each in attempts] == list(range(1, job.attempt + 1))
    ended = attempts[:-1] if job.live else attempts
    assert [each["outcome"] for each in ended] == job.outcomes
    assert all(each["ended_at"] is not None for each in ended)
    assert not job.live or (attempts[-1]["ended_at"], attempts[-1]["outcome"]) == (None, None)
    counted = Counter(job.outcomes)
    assert row["preemptions"] == counted["preempted"]
    assert row["crashes"] == counted["crashed"] + counted["lost"]


def check_events(job: Expected, row: Any, events: list[Any]) -> None:
    assert [each["seq"] for each in events] == list(range(1, row["last_seq"] + 1))
    final = [each["seq"] for each in events if each["type"] in TERMINAL]
    assert final == ([row["last_seq"]] if job.status in TERMINAL else [])
    assert [each["attempt"] for each in events] == sorted(each["attempt"] for each in events)
    assert [each["at"] for each in events] == sorted(each["at"] for each in events)


def check_checkpoints(job: Expected, row: Any, checkpoints: list[Any]) -> None:
    assert [each["step"] for each in checkpoints] == job.saved[-KEEP:]
    assert row["checkpoint_id"] == (checkpoints[-1]["id"] if checkpoints else None)
    assert [each["attempt"] for each in checkpoints] == sorted(each["attempt"] for each in checkpoints)


def test_no_order_of_deeds_breaks_the_store(database_url: str) -> None:
    database = Database(database_url)
    machine = type("OpenStore", (Store,), {"database": database})
    short = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],  # to shrink a failure would take minutes; its steps are few enough to read
    )
    run_state_machine_as_test(machine, settings=short)
    database.close()
