"""Redis is stopped, emptied or says everything ten times: a message is only a hint."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.servers import Api, Redis, running_api
from worker.queue import enqueue, hints_waiting

Service = Any
DURING_THE_OUTAGE = 8
QUEUED = 30
REPEATS = 10


@pytest.fixture
def api(brokered: Service, redis: Redis, tmp_path: Path) -> Iterator[Api]:
    """The real one."""
    environment = {
        "DISTILLERY_DATABASE_URL": brokered.url,
        "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts"),
        "DISTILLERY_REDIS_URL": redis.url,
    }
    with running_api(environment, log=tmp_path / "api.log") as api:
        yield api


def _ready(service: Service, number: int = 0) -> None:
    service.until(lambda: " ready." in service.worker_log(number))


def _each_ran_once(service: Service, ids: list[str]) -> None:
    for job_id in ids:
        job = service.until_ended(job_id)
        told = "\n".join(each.message for each in service.events(job_id))
        assert (job.status, job.attempt, service.kinds(job_id).count("started")) == ("succeeded", 1, 1), told


def test_while_redis_is_stopped_running_jobs_go_on_and_new_ones_are_accepted(
    brokered: Service, redis: Redis, api: Api, expected: Callable[[int], bytes]
) -> None:
    """Row 5: one job runs and others are submitted while Redis is away; all succeed, each in one run."""
    running = brokered.submit(steps="20", every="5", ending="hold", at="12")
    brokered.start_celery()
    brokered.until_step(12)
    redis.kill()
    spec = brokered.spec(steps="3").model_dump(mode="json", exclude_unset=True)
    with httpx.Client(base_url=api.url, timeout=30) as http:
        answers = [http.post("/v1/jobs", json=spec) for _ in range(DURING_THE_OUTAGE)]
    assert [answer.status_code for answer in answers] == [201] * DURING_THE_OUTAGE
    brokered.until(lambda: "consumer: Cannot connect" in brokered.worker_log())
    brokered.go()
    assert brokered.until_ended(running).status == "succeeded"
    redis.start()
    _each_ran_once(brokered, [running, *(answer.json()["id"] for answer in answers)])
    assert brokered.content(running, "student.safetensors") == expected(20)


def test_what_an_emptied_redis_forgot_is_hinted_at_again(brokered: Service, redis: Redis) -> None:
    """Row 6: FLUSHALL while many jobs are queued, several times; none is lost, and each runs once."""
    busy = brokered.submit(steps="2", ending="hold", at="1")
    for _ in range(2):
        brokered.start_celery()
    brokered.until_step(1)
    ids = [brokered.submit(steps="1") for _ in range(QUEUED)]
    for job_id in ids:
        enqueue(job_id, queue="default", redis_url=brokered.redis_url)
    redis.flush()
    brokered.go()
    for done in (QUEUED // 3, 2 * QUEUED // 3):
        brokered.until(lambda many=done: _ended(brokered) >= many)
        redis.flush()
    _each_ran_once(brokered, [busy, *ids])


def _ended(service: Service) -> int:
    return service.jobs_by_status().get("succeeded", 0)


def test_ten_hints_for_each_job_and_several_workers_of_both_kinds_run_every_job_once(brokered: Service) -> None:
    """Row 14: two Celery workers are told everything ten times, and a third one, that polls, claims beside them."""
    for _ in range(2):
        brokered.start_celery()
    _ready(brokered, 0)
    _ready(brokered, 1)
    brokered.start_embedded()
    ids = [brokered.submit(steps="2") for _ in range(8)]

    def hint(job_id: str) -> None:
        enqueue(job_id, queue="default", redis_url=brokered.redis_url)

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(hint, ids * REPEATS))
    _each_ran_once(brokered, ids)
    assert len(brokered.steps_taken()) == 2 * len(ids)


def test_hints_that_the_broker_holds_back_until_the_job_has_ended_do_nothing(brokered: Service, redis: Redis) -> None:
    """Row 14: a message that comes late finds no row to claim."""
    job_id = brokered.submit(steps="2")
    enqueue(job_id, queue="default", redis_url=brokered.redis_url)
    assert brokered.run_one()
    brokered.start_celery()
    _ready(brokered)
    after = brokered.submit(steps="1")
    _each_ran_once(brokered, [job_id, after])


HINTS_AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from worker.queue import enqueue

together = Barrier(8)

def hint(number):
    together.wait()
    enqueue(f"job_{number}", queue="default", redis_url=sys.argv[1])

with ThreadPoolExecutor(8) as senders:
    list(senders.map(hint, range(8)))
"""


def test_the_first_hints_of_a_new_process_may_be_sent_all_at_once(redis: Redis) -> None:
    """Row 5: requests that came while the API was starting; Celery is imported by whichever is first."""
    sent = subprocess.run([sys.executable, "-c", HINTS_AT_ONCE, redis.url], capture_output=True, text=True, check=False)
    assert sent.returncode == 0, sent.stderr
    assert hints_waiting("default", redis_url=redis.url) == 8
