"""Attempts that end because of a pause, a time limit, a freeze or a halt: what is recorded and how the job goes on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from store import jobs, wishes

Service = Any


@contextmanager
def running(service: Service) -> Iterator[threading.Thread]:
    """An attempt in a thread of this process."""
    thread = threading.Thread(target=service.run_one)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(120)
    assert not thread.is_alive()


def test_a_running_job_is_paused_at_a_checkpoint_and_resumed_without_repeating_a_step(
    service: Service, expected: Callable[[int], bytes]
) -> None:
    job_id = service.submit(steps="60", every="50", pace="0.02", ending="hold", at="20")
    with running(service):
        service.until_step(20)
        service.ask(wishes.pause, job_id)
    job = service.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("paused", "paused")
    assert service.checkpoint_steps(job_id) == [(1, 20)], "the pause saved what was learned so far"
    assert not service.run_one(), "nobody claims a paused job"
    service.ask(wishes.resume, job_id)
    service.go()
    assert service.run_one()
    assert service.job(job_id).status == "succeeded"
    assert [step for _, step in service.steps_taken()] == list(range(1, 61))
    assert service.content(job_id, "student.safetensors") == expected(60)


def test_a_job_that_reaches_its_time_limit_saves_and_fails_with_the_way_on(embedded: Service) -> None:
    job_id = embedded.submit(steps="100000", every="100000", pace="0.02", max_seconds=3)
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert job.status == "failed"
    assert (job.error.code, job.error.retryable, job.error.pointer) == ("TIME_LIMIT", True, "/resources/max_seconds")
    assert len(embedded.checkpoint_steps(job_id)) == 1


def test_a_job_without_time_left_does_not_begin(embedded: Service) -> None:
    job_id = embedded.submit(steps="5", max_seconds=1)
    with embedded.database.transaction() as session:
        jobs.find(session, job_id, locked=True).running_seconds = 2.0
    assert embedded.run_one()
    assert embedded.job(job_id).error.code == "TIME_LIMIT"
    assert embedded.steps_taken() == []


@pytest.mark.parametrize("how", ["freeze", "stopped"])
def test_a_frozen_trainer_is_killed_with_its_stacks_in_the_log_and_the_job_goes_on(
    embedded: Service, expected: Callable[[int], bytes], how: str
) -> None:
    embedded.lease = replace(embedded.lease, stall_seconds=2)
    ending = {"ending": "freeze", "once": "yes"} if how == "freeze" else {"ending": "hold", "once": "yes"}
    job_id = embedded.submit(steps="12", every="5", at="7", **ending)
    with running(embedded):
        embedded.until_step(7)
        if how == "stopped":
            os.kill(embedded.trainer_pid(), signal.SIGSTOP)
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].outcome, job.attempts[0].exit_code) == ("queued", "frozen", -9)
    assert "The trainer froze: no word of it for" in job.status_reason
    log = embedded.content(job_id, "trainer.log").decode()
    assert "most recent call first" in log and "tiny_trainer.py" in log
    embedded.until(embedded.run_one)
    assert embedded.job(job_id).status == "succeeded"
    assert embedded.content(job_id, "student.safetensors") == expected(12)


def test_memory_that_ran_out_is_met_with_smaller_parts_and_said(embedded: Service) -> None:
    labels = {"ending": "halt", "at": "7", "reason": "out_of_memory", "run": "training", "needs_parts": "4"}
    job_id = embedded.submit(steps="9", every="5", **labels)
    while embedded.run_one():
        pass
    job = embedded.job(job_id)
    assert (job.status, job.adjustments.micro_batches) == ("succeeded", 4)
    assert [each.outcome for each in job.attempts] == ["halted", "halted", "succeeded"]
    said = embedded.events(job_id, "requeued")
    assert [each.data["micro_batches"] for each in said] == [2, 4]
    assert "with each batch in 2 parts" in said[0].message


def test_memory_that_never_suffices_fails_after_three_halvings(embedded: Service) -> None:
    labels = {"ending": "halt", "at": "7", "reason": "out_of_memory", "run": "training", "needs_parts": "99"}
    job_id = embedded.submit(steps="9", every="5", **labels)
    while embedded.run_one():
        pass
    job = embedded.job(job_id)
    assert (job.status, job.attempt, job.error.code) == ("failed", 4, "OUT_OF_MEMORY")


def test_a_run_that_diverged_goes_on_at_half_the_rate(embedded: Service) -> None:
    labels = {"ending": "halt", "at": "7", "reason": "diverged", "run": "training", "needs_parts": "99"}
    job_id = embedded.submit(steps="9", every="5", **labels)
    while embedded.run_one():
        pass
    job = embedded.job(job_id)
    assert (job.status, job.adjustments.rate_halved) == ("succeeded", ("training",))
    assert job.attempts[1].first_step == 5


def test_a_trainer_that_met_a_full_disk_is_tried_again_after_a_while_and_counts_no_crash(embedded: Service) -> None:
    embedded.lease = replace(embedded.lease, space_wait_seconds=0.5)
    labels = {"ending": "halt", "at": "7", "reason": "disk_full", "run": "", "once": "yes"}
    job_id = embedded.submit(steps="9", every="5", **labels)
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "halted")
    assert "the job tries again in 0.5 s" in job.status_reason
    assert not embedded.run_one(), "it waits first"
    embedded.until(embedded.run_one)
    assert embedded.job(job_id).status == "succeeded"
