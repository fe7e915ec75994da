"""The database crashes, hangs up in the midst of a message, falls silent, or cannot be reached by one worker alone."""

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.servers import Cable, Postgres, running_api

Service = Any
CRASHES = 3
JOBS = 12
CUTS = 15


class Client:
    """Submits jobs, and says each again, under its key, until it has been answered with 201."""

    def __init__(self, url: str, spec: dict[str, Any]) -> None:
        self._http, self._spec = httpx.Client(base_url=url, timeout=30), spec
        self.accepted: list[str] = []
        self.refused: list[httpx.Response] = []

    def submit(self, key: str) -> None:
        while True:
            answer = self._http.post("/v1/jobs", json=self._spec, headers={"Idempotency-Key": key})
            if answer.status_code == 201:
                self.accepted.append(answer.json()["id"])
                return
            self.refused.append(answer)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def crashing(postgres: Postgres, service_at: Callable[..., Service]) -> Service:
    """On a Postgres of its own."""
    return service_at(postgres.url)


@pytest.fixture
def client(crashing: Service, tmp_path: Path) -> Iterator[Client]:
    """Of the real API."""
    environment = {"DISTILLERY_DATABASE_URL": crashing.url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    spec = crashing.spec(steps="5", pace="0.02").model_dump(mode="json", exclude_unset=True)
    with running_api(environment, log=tmp_path / "api.log") as api:
        client = Client(api.url, spec)
        yield client
        client.close()


def test_a_database_that_crashes_under_load_costs_no_job_and_doubles_none(
    crashing: Service, postgres: Postgres, client: Client, expected: Callable[[int], bytes]
) -> None:
    """Row 7: Postgres is crashed several times while jobs are submitted and run."""
    long = crashing.submit(steps="40", every="5", pace="0.02", ending="hold", at="33", priority=90)
    for _ in range(2):
        crashing.start_embedded()
    crashing.until_saved(long, step=10)
    keys = [uuid.uuid4().hex for _ in range(JOBS)]
    submitting = threading.Thread(target=lambda: [client.submit(key) for key in keys])
    postgres.crash()
    submitting.start()
    crashing.until(lambda: client.refused)
    postgres.start()
    for crash in range(1, CRASHES):
        crashing.until(lambda many=crash * JOBS // CRASHES: len(client.accepted) >= many)
        postgres.restart()
    submitting.join(120)
    crashing.go()
    refusal = client.refused[0]
    assert (refusal.status_code, refusal.headers["content-type"]) == (503, "application/problem+json")
    assert int(refusal.headers["retry-after"]) >= 1
    assert len(set(client.accepted)) == JOBS
    for job_id in client.accepted:
        assert crashing.until_ended(job_id).status == "succeeded"
        assert crashing.kinds(job_id).count("succeeded") == 1
        assert crashing.content(job_id, "student.safetensors") == expected(5)
    assert crashing.jobs() == {long, *client.accepted}, "a request whose answer was lost made a second job"
    job = crashing.until_ended(long)
    assert (job.status, job.attempt) == ("succeeded", 1), "its trainer went on while the database was away"
    assert crashing.content(long, "student.safetensors") == expected(40)


def test_a_connection_cut_in_the_midst_of_messages_leaves_no_word_unsaid_and_none_said_twice(
    service: Service, cable: Cable, expected: Callable[[int], bytes]
) -> None:
    """Row 7: nobody knows whether a commit happened whose answer was cut off; it is asked again, by the attempt."""
    job_id = service.submit(steps="150", every="5", pace="0.02")
    service.start_embedded(environment={"DISTILLERY_DATABASE_URL": cable.through(service.url)})
    service.until(lambda: service.job(job_id).attempt == 1)
    for _ in range(CUTS):
        cable.cut_after(random.randrange(1_000, 10_000))
        service.until(lambda: cable.was_cut)
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert service.kinds(job_id).count("succeeded") == 1
    assert service.loss_steps(job_id) == list(range(1, 151))
    assert sorted({step for _, step in service.saved(job_id)}) == list(range(5, 151, 5))
    assert service.content(job_id, "student.safetensors") == expected(150)


def test_a_slow_connection_to_the_database_changes_nothing(
    service: Service, cable: Cable, expected: Callable[[int], bytes]
) -> None:
    """Row 7: each answer takes its time."""
    cable.delay_seconds = 0.03
    job_id = service.submit(steps="20", every="10")
    service.start_embedded(environment={"DISTILLERY_DATABASE_URL": cable.through(service.url)})
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert service.content(job_id, "student.safetensors") == expected(20)


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_a_worker_that_alone_cannot_reach_the_database_stops_before_another_begins(
    service: Service, cable: Cable, alive: Callable[[int], bool], expected: Callable[[int], bytes], how: str
) -> None:
    """Row 22: its connections are refused, or stay open and silent, and its trainer goes on until it is stopped."""
    job_id = service.submit(steps="100000", steps_later="40", every="10", pace="0.05")
    lonely = service.start_embedded(
        lease_seconds=6, environment={"DISTILLERY_DATABASE_URL": cable.through(service.url)}
    )
    service.until_saved(job_id, step=10)
    trainer = service.trainer_pid()
    getattr(cable, how)()
    service.until(lambda: not alive(trainer), seconds=30)
    assert service.job(job_id).attempt == 1, "its lease was not over yet"
    assert service.reap() == []
    service.start_embedded()
    job = service.until_ended(job_id)
    cable.mend()
    assert (job.status, [each.outcome for each in job.attempts]) == ("succeeded", ["lost", "succeeded"])
    service.until(lambda: "attempt 1 writes nothing more" in service.worker_log(0))
    assert service.saved(job_id) == sorted(service.saved(job_id))
    assert service.content(job_id, "student.safetensors") == expected(40)
    lonely.terminate()
    assert lonely.wait(60) == 0
