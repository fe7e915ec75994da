"""Workers and trainers that are killed, frozen or told to leave, as processes and by signals."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, text

Service = Any
HERE = Path(__file__).parent
KILLS = 3
LEAVES = 5
BUDGET_SECONDS = 25.0


def test_killed_workers_are_replaced_and_the_student_is_that_of_an_uninterrupted_run(
    either: Service, expected: Callable[[int], bytes], alive: Callable[[int], bool]
) -> None:
    """Row 1: kill -9 of the worker in the midst of an epoch, several times, at random steps."""
    job_id = either.submit(steps="60", every="10", pace="0.02", ending="hold", at="55")
    for _ in range(KILLS + 1):
        either.start_doomed()
    steps = sorted(random.sample(range(10, 55), KILLS))
    for attempt, step in enumerate(steps, start=1):
        either.until(lambda a=attempt, s=step: any(t >= (a, s) for t in either.steps_taken()))
        attempt = either.job(job_id).attempt
        orphan, worker = either.trainer_pid(), either.owner_pid(job_id)
        os.kill(worker, signal.SIGKILL)
        either.until(lambda pid=orphan: not alive(pid))
        either.until(lambda a=attempt: either.job(job_id).attempt > a)
    either.go()
    job = either.until_ended(job_id)
    assert job.status == "succeeded"
    assert [each.outcome for each in job.attempts[:-1]].count("lost") >= KILLS
    assert either.content(job_id, "student.safetensors") == expected(60)
    for before, after in zip(job.attempts, job.attempts[1:], strict=False):
        first = next((step for attempt, step in either.steps_taken() if attempt == after.attempt), None)
        kept = max((step for attempt, step in either.saved(job_id) if attempt <= before.attempt), default=0)
        assert first in (None, kept + 1), "an attempt goes on from the newest checkpoint that was committed"


def test_a_killed_trainer_is_replaced_by_its_worker(service: Service, expected: Callable[[int], bytes]) -> None:
    """Row 2: kill -9 of the trainer alone, as the kernel does when memory is short."""
    job_id = service.submit(steps="30", every="5", pace="0.02", ending="hold", at="17,23")
    service.start_embedded()
    for attempt, (step, saved) in enumerate(((17, 15), (23, 20)), start=1):
        service.until(lambda a=attempt, s=step: (a, s) in service.steps_taken())
        service.until(lambda a=attempt, s=saved: (a, s) in service.saved(job_id))
        os.kill(service.trainer_pid(), signal.SIGKILL)
        service.until(lambda a=attempt: service.job(job_id).attempt == a + 1)
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 3)
    assert [each.exit_code for each in job.attempts] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert [each.first_step for each in job.attempts] == [0, 15, 20]
    assert service.content(job_id, "student.safetensors") == expected(30)


def test_a_job_that_kills_its_trainer_every_time_ends_and_holds_up_nobody(service: Service) -> None:
    """Row 3: one poison job and twenty good ones."""
    poison = service.submit(steps="5", ending="killed", at="1", every="100", priority=90)
    good = [service.submit(steps="2") for _ in range(20)]
    for _ in range(2):
        service.start_embedded()
    ended = service.until_ended(poison)
    assert (ended.status, ended.error.code, ended.attempt) == ("crashed", "WORKER_CRASH", 3)
    assert ended.error.hint
    assert [service.until_ended(each).status for each in good] == ["succeeded"] * 20
    assert [service.kinds(each).count("started") for each in good] == [1] * 20


def test_sigterm_at_any_moment_saves_releases_and_repeats_nothing(
    either: Service, expected: Callable[[int], bytes]
) -> None:
    """Row 4: a spot instance is taken away, at the claim and at random steps; nothing of it counts as a crash."""
    moments = [1, *sorted(random.sample(range(2, 100), LEAVES - 1))]
    at = ",".join(map(str, moments))
    job_id = either.submit(steps="100", every="1000", pace="0.01", ending="hold", at=at)
    for leave, step in enumerate(moments, start=1):
        worker = either.start_embedded()
        either.until(lambda number=leave: either.job(job_id).attempt == number)
        either.until(lambda number=leave, s=step: number == 1 or (number, s) in either.steps_taken())
        worker.terminate()
        assert worker.wait(BUDGET_SECONDS) == 0
        assert either.counted(job_id) == {"status": "queued", "preemptions": leave, "crashes": 0}
        assert either.job(job_id).attempts[-1].outcome == "preempted"
    either.start_embedded()
    assert either.until_ended(job_id).status == "succeeded"
    assert [step for _, step in either.steps_taken()] == list(range(1, 101)), f"told to leave at {moments}"
    assert either.content(job_id, "student.safetensors") == expected(100)


@pytest.mark.parametrize("knows", [True, False], ids=["its clock went on", "its clock stood still"])
def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_goes_on(
    service: Service, expected: Callable[[int], bytes], alive: Callable[[int], bool], *, knows: bool
) -> None:
    """Row 8: SIGSTOP for longer than the lease, then SIGCONT, while its trainer and another worker go on.

    On a machine that was suspended the monotonic clock stands still, too: the worker believes in its lease, and only
    the fence keeps it from writing.
    """
    job_id = service.submit(steps="100000", steps_later="60", every="5", pace="0.05")
    stopped = service.start_doomed() if knows else service.start_embedded()
    service.until_saved(job_id, step=10)
    stale = service.trainer_pid()
    stopped.send_signal(signal.SIGSTOP)
    if not knows:
        service.expire(job_id)
    service.start_embedded()
    service.until(lambda: any(attempt == 2 for attempt, _ in service.saved(job_id)))
    stopped.send_signal(signal.SIGCONT)
    service.until(lambda: not alive(stale))
    job = service.until_ended(job_id)
    service.until(lambda: knows or service.job(job_id).attempts[0].refused_writes >= 1)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert service.kinds(job_id).count("succeeded") == 1
    assert service.saved(job_id) == sorted(service.saved(job_id)), "the stale attempt committed a checkpoint"
    assert service.content(job_id, "student.safetensors") == expected(60)
    assert stopped.poll() is None, "it is there for the next job"


def test_a_trainer_that_is_stopped_is_noticed_by_its_worker_and_replaced(
    service: Service, expected: Callable[[int], bytes]
) -> None:
    """Row 20: SIGSTOP of the trainer alone: its worker lives and beats, and no step is taken any more."""
    job_id = service.submit(steps="20", every="5", ending="hold", at="12", once="yes")
    service.start_embedded(environment={"DISTILLERY_STALL_SECONDS": "2"})
    service.until_saved(job_id, step=10)
    service.until_step(12)
    os.kill(service.trainer_pid(), signal.SIGSTOP)
    job = service.until_ended(job_id)
    assert (job.status, job.attempt, job.attempts[0].outcome) == ("succeeded", 2, "frozen")
    assert job.attempts[1].first_step == 10
    (said,) = service.events(job_id, "requeued")
    assert said.data["reason"] == "frozen"
    assert service.content(job_id, "student.safetensors") == expected(20)


CLAIMS_AND_DIES = """
import os, signal, sys
from store import leases
from store.db import Database

with Database(sys.argv[1]).transaction() as session:
    assert leases.claim(session, worker="short-lived", queues=["default"], lease_seconds=1.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_killed_right_after_its_claim_holds_the_job_for_one_lease_only(service: Service) -> None:
    """Row 21: it never sends a first heartbeat."""
    job_id = service.submit(steps="2")
    killed = subprocess.run([sys.executable, "-c", CLAIMS_AND_DIES, service.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert service.job(job_id).status == "running"
    service.start_embedded()
    job = service.until_ended(job_id)
    assert (job.status, [each.outcome for each in job.attempts]) == ("succeeded", ["lost", "succeeded"])


def test_no_row_can_run_without_a_lease(either: Service) -> None:
    """Row 21: the database itself refuses a running job that no reaper would ever find."""
    job_id = either.submit()
    with pytest.raises(exc.IntegrityError), either.database.transaction() as session:
        session.execute(text("UPDATE jobs SET status = 'running' WHERE id = :id"), {"id": job_id})
