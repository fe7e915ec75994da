"""Celery workers on Postgres and Redis: hints may double, get lost or come late, and every job runs once."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from worker.queue import enqueue

Service = Any
HELD_ONCE = {"steps": "20", "every": "5", "ending": "hold", "at": "12", "once": "yes"}
"""The first attempt stands at step 12, with step 10 saved, until something happens to it."""


@pytest.fixture
def broker(production: Service) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(production.redis_url) as connection:
        yield connection


def _ready(service: Service, number: int = 0) -> None:
    service.until(lambda: " ready." in service.worker_log(number))


def _runs(service: Service, job_id: str) -> int:
    return [each.type for each in service.events(job_id)].count("started")


def test_ten_hints_for_each_job_and_two_workers_run_every_job_once(production: Service) -> None:
    production.start_celery()
    production.start_celery()
    _ready(production, 0)
    _ready(production, 1)
    ids = [production.submit(steps="3") for _ in range(4)]
    for _ in range(10):
        for job_id in ids:
            enqueue(job_id, queue="default", redis_url=production.redis_url)
    for job_id in ids:
        assert production.until_ended(job_id).status == "succeeded"
        assert _runs(production, job_id) == 1
    assert len(production.steps_taken()) == 3 * len(ids)


def test_a_broker_that_loses_everything_delays_jobs_and_loses_none(production: Service, broker: redis.Redis) -> None:
    busy = production.submit(steps="2", ending="hold", at="1")
    production.start_celery()
    production.until_step(1)
    ids = [production.submit(steps="2", priority=priority) for priority in (50, 50, 50, 50, 90)]
    for job_id in ids:
        enqueue(job_id, queue="default", redis_url=production.redis_url)
    broker.flushdb()
    production.go()
    ended = [production.until_ended(job_id) for job_id in [busy, *ids]]
    assert [each.status for each in ended] == ["succeeded"] * 6
    assert [_runs(production, each.id) for each in ended] == [1] * 6
    in_order = sorted(ended, key=lambda each: each.started_at or each.created_at)
    assert [each.id for each in in_order] == [busy, ids[4], *ids[:4]], "the row knows the priority, not the hint"


def test_sigterm_to_the_main_process_saves_and_releases(production: Service, expected: Callable[[int], bytes]) -> None:
    job_id = production.submit(**HELD_ONCE | {"every": "100000"})
    first = production.start_celery()
    production.until_step(12)
    first.terminate()
    assert first.wait(60) == 0
    job = production.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "preempted")
    production.start_celery()
    assert production.until_ended(job_id).status == "succeeded"
    assert [step for _, step in production.steps_taken()] == list(range(1, 21))
    assert production.content(job_id, "student.safetensors") == expected(20)


def test_sigterm_to_every_process_at_once_saves_and_releases_too(production: Service) -> None:
    job_id = production.submit(**HELD_ONCE | {"every": "100000"})
    first = production.start_celery()
    production.until_step(12)
    for each in [first.pid, *(child.pid for child in psutil.Process(first.pid).children(recursive=True))]:
        os.kill(each, signal.SIGTERM)
    assert first.wait(60) == 0
    job = production.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "preempted")
    assert production.checkpoint_steps(job_id) == [production.steps_taken()[-1]]


def test_when_a_celery_worker_is_killed_nothing_of_it_trains_on_and_the_job_is_finished_elsewhere(
    production: Service, expected: Callable[[int], bytes], alive: Callable[[int], bool]
) -> None:
    job_id = production.submit(**HELD_ONCE)
    first = production.start_celery(lease_seconds=2.5)
    production.until_saved(job_id, step=10)
    family = [first.pid, *(child.pid for child in psutil.Process(first.pid).children(recursive=True))]
    assert production.trainer_pid() in family
    first.kill()
    production.until(lambda: not any(alive(pid) for pid in family[1:]))
    production.start_celery()
    job = production.until_ended(job_id)
    assert (job.status, job.attempt, job.attempts[0].outcome) == ("succeeded", 2, "lost")
    assert production.content(job_id, "student.safetensors") == expected(20)


def test_the_pool_process_that_follows_a_killed_one_works(
    production: Service, expected: Callable[[int], bytes]
) -> None:
    before = [production.submit(steps="6", every="1") for _ in range(2)]  # enough checkpoints for some to be deleted
    worker = production.start_celery(lease_seconds=2.5)
    for job_id in before:
        assert production.until_ended(job_id).status == "succeeded"
    job_id = production.submit(**HELD_ONCE | {"at": "7"})
    production.until_saved(job_id, step=5)
    (pool_process,) = psutil.Process(worker.pid).children()
    pool_process.kill()
    job = production.until_ended(job_id)
    assert (job.status, job.attempt, job.attempts[0].outcome) == ("succeeded", 2, "lost")
    assert production.content(job_id, "student.safetensors") == expected(20)
    assert worker.poll() is None


def test_a_worker_without_an_address_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillery.errors import InvalidRequest
    from worker.tasks import make_app

    monkeypatch.setenv("DISTILLERY_DATABASE_URL", f"sqlite:///{tmp_path}/x.db")
    monkeypatch.setenv("DISTILLERY_ARTIFACTS", str(tmp_path))
    monkeypatch.delenv("DISTILLERY_REDIS_URL", raising=False)
    with pytest.raises(InvalidRequest, match=r"DISTILLERY_REDIS_URL is not set.*worker\.embedded"):
        make_app()
