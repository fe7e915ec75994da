"""Worker processes without a broker, and what becomes of their jobs when they are killed, stopped or frozen."""

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from typing import Any

Service = Any
SOON_OVER = 2.5
HELD_ONCE = {"steps": "20", "every": "5", "ending": "hold", "at": "12", "once": "yes"}
"""The first attempt stands at step 12, with step 10 saved, until something happens to it."""


def test_a_killed_trainer_is_replaced_and_goes_on_from_its_checkpoint(
    embedded: Service, expected: Callable[[int], bytes]
) -> None:
    job_id = embedded.submit(**HELD_ONCE)
    embedded.start_embedded()
    embedded.until_saved(job_id, step=10)
    os.kill(embedded.trainer_pid(), signal.SIGKILL)
    job = embedded.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert job.attempts[0].exit_code == -signal.SIGKILL
    assert [step for attempt, step in embedded.steps_taken() if attempt == 2] == list(range(11, 21))
    assert embedded.content(job_id, "student.safetensors") == expected(20)


def test_when_a_worker_is_killed_its_trainer_dies_and_another_worker_goes_on(
    embedded: Service, expected: Callable[[int], bytes], alive: Callable[[int], bool]
) -> None:
    job_id = embedded.submit(**HELD_ONCE)
    first = embedded.start_embedded(lease_seconds=SOON_OVER)
    embedded.until_saved(job_id, step=10)
    orphan = embedded.trainer_pid()
    first.kill()
    embedded.until(lambda: not alive(orphan))
    embedded.start_embedded()
    job = embedded.until_ended(job_id)
    assert (job.status, job.attempt, job.attempts[0].outcome) == ("succeeded", 2, "lost")
    assert [step for attempt, step in embedded.steps_taken() if attempt == 2] == list(range(11, 21))
    assert embedded.content(job_id, "student.safetensors") == expected(20)


def test_sigterm_saves_and_releases_and_no_step_is_repeated(
    embedded: Service, expected: Callable[[int], bytes]
) -> None:
    job_id = embedded.submit(**HELD_ONCE | {"every": "100000"})
    first = embedded.start_embedded()
    embedded.until_step(12)
    first.terminate()
    assert first.wait(60) == 0
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "preempted")
    embedded.start_embedded()
    assert embedded.until_ended(job_id).status == "succeeded"
    assert [step for _, step in embedded.steps_taken()] == list(range(1, 21))
    assert embedded.content(job_id, "student.safetensors") == expected(20)


def _freeze(worker: subprocess.Popen[bytes], service: Service) -> None:
    """Stop it where it does not hold SQLite's one lock: with that, nobody could write until it wakes."""
    while True:
        worker.send_signal(signal.SIGSTOP)
        if not service.url.startswith("sqlite"):
            return
        with contextlib.closing(sqlite3.connect(service.url.removeprefix("sqlite:///"), timeout=0.1)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                worker.send_signal(signal.SIGCONT)
            else:
                connection.rollback()
                return


def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_wakes(
    service: Service, expected: Callable[[int], bytes], alive: Callable[[int], bool]
) -> None:
    job_id = service.submit(steps="100000", steps_later="100", every="5", pace="0.05")
    frozen = service.start_embedded(lease_seconds=SOON_OVER)
    service.until_saved(job_id, step=10)
    stale = service.trainer_pid()
    _freeze(frozen, service)
    second = service.start_embedded()
    service.until(lambda: service.job(job_id).attempt == 2)
    frozen.send_signal(signal.SIGCONT)
    service.until(lambda: "attempt 1 writes nothing more" in service.worker_log(0))
    service.until(lambda: not alive(stale))
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert [each.type for each in service.events(job_id)].count("succeeded") == 1
    attempts = [each.attempt for each in service.events(job_id)]
    assert attempts == sorted(attempts), "the stale attempt wrote after the new one had begun"
    assert service.content(job_id, "student.safetensors") == expected(100)
    assert (frozen.poll(), second.poll()) == (None, None), "both workers are there for the next job"


def test_an_idle_worker_leaves_at_once(embedded: Service) -> None:
    worker = embedded.start_embedded()
    embedded.until_ended(embedded.submit(steps="1"))
    worker.terminate()
    assert worker.wait(60) == 0
