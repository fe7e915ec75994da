"""Wall clocks that are two hours off, of workers and of the API: leases and waits go by the database's clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.servers import Api, running_api, shifted_clock

Service = Any
OFFSETS = ("+2h", "-2h")
HOUR = 3600.0
WAIT_SECONDS = 2.0


@pytest.fixture
def apis(service: Service, tmp_path: Path) -> Iterator[list[Api]]:
    """One in the future and one in the past."""
    places = {"DISTILLERY_DATABASE_URL": service.url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    with ExitStack() as stack:
        yield [
            stack.enter_context(running_api(places | shifted_clock(offset), log=tmp_path / f"api{offset}.log"))
            for offset in OFFSETS
        ]


def _hours_off(answer: httpx.Response) -> float:
    return (parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) / HOUR


def test_no_lease_ends_early_and_no_job_is_claimed_twice_by_workers_in_the_future_and_in_the_past(
    service: Service, apis: list[Api], expected: Callable[[int], bytes]
) -> None:
    """Row 13: a job is held by a worker with the right time, while others look for work with the wrong one."""
    held = service.submit(steps="20", every="5", ending="hold", at="12", priority=90)
    service.start_embedded()
    service.until_step(12)
    for offset in OFFSETS:
        wrong = {"DISTILLERY_BACKOFF_SECONDS": str(WAIT_SECONDS)} | shifted_clock(offset)
        service.start_embedded(environment=wrong)
    crashing = service.submit(steps="3", ending="killed", at="1", once="yes")
    spec = service.spec(steps="3").model_dump(mode="json", exclude_unset=True)
    answers = [httpx.post(f"{api.url}/v1/jobs", json=spec) for api in apis * 4]
    assert [round(_hours_off(answer)) for answer in answers[:2]] == [2, -2]
    for answer in answers:
        assert answer.status_code == 201
        job = service.until_ended(answer.json()["id"])
        assert (job.status, job.attempt) == ("succeeded", 1)
    first, second = service.until_ended(crashing).attempts
    assert (second.started_at - first.ended_at).total_seconds() >= WAIT_SECONDS, "the wait after a crash was cut short"
    for process in service.processes[1:]:
        assert "libfaketime" in Path(f"/proc/{process.pid}/maps").read_text()
    assert service.job(held).attempt == 1, "somebody with another clock took the lease for over"
    service.go()
    job = service.until_ended(held)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert service.content(held, "student.safetensors") == expected(20)


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_lease_of_a_worker_with_a_wrong_clock_ends_in_time(
    service: Service, offset: str, expected: Callable[[int], bytes]
) -> None:
    """Row 13: it is killed, and a worker with the right time goes on within seconds and not hours."""
    job_id = service.submit(steps="20", every="5", ending="hold", at="12")
    wrong = service.start_doomed(environment=shifted_clock(offset))
    service.until_saved(job_id, step=10)
    wrong.kill()
    service.go()
    service.start_embedded()
    job = service.until_ended(job_id)
    assert (job.status, job.attempts[-2].outcome) == ("succeeded", "lost")
    assert service.content(job_id, "student.safetensors") == expected(20)
