"""What an attempt does when the database, the disk or the artifact store fails under it."""

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from distillery.errors import Unavailable
from store.config import LeaseConfig
from store.db import Database
from tests.faults.servers import Cable
from worker.attempt import run_one

Service = Any


@pytest.fixture
def on_postgres(postgres_url: str, service_at: Callable[[str], Service]) -> Service:
    return service_at(postgres_url)


@contextmanager
def _running(service: Service, cable: Cable, *, lease: LeaseConfig) -> Iterator[threading.Thread]:
    """An attempt in a thread whose database lies behind the cable."""
    database = Database(cable.through(service.url))
    options = {"worker": "behind-cable", "queues": ("default",), "stop": threading.Event(), "lease": lease}
    options |= {"programs": service.programs, "work_root": service.work_root}
    thread = threading.Thread(target=run_one, args=(database, service.artifacts), kwargs=options)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        database.close()
        cable.close()
    assert not thread.is_alive()


def test_an_outage_shorter_than_the_lease_loses_and_repeats_nothing(
    on_postgres: Service, expected: Callable[[int], bytes]
) -> None:
    service, cable = on_postgres, Cable(urlsplit(on_postgres.url).port or 5432)
    job_id = service.submit(steps="100", every="10", pace="0.02", ending="hold", at="90")
    with _running(service, cable, lease=service.lease):
        service.until_saved(job_id, step=10)
        cable.cut()
        service.until_step(90)
        cable.mend()
        service.go()
    job = service.job(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert [step for _, step in service.steps_taken()] == list(range(1, 101))
    assert service.loss_steps(job_id) == list(range(1, 101))
    saved = [each.data["step"] for each in service.events(job_id, "checkpoint")]
    assert saved == list(range(10, 101, 10))
    assert service.content(job_id, "student.safetensors") == expected(100)


def test_an_attempt_that_cannot_renew_its_lease_stops_its_trainer_before_anyone_else_begins(
    on_postgres: Service, alive: Callable[[int], bool]
) -> None:
    service, cable = on_postgres, Cable(urlsplit(on_postgres.url).port or 5432)
    job_id = service.submit(steps="100000", every="10", pace="0.05")
    short = LeaseConfig(lease_seconds=8, heartbeat_seconds=0.25)
    with _running(service, cable, lease=short) as thread:
        service.until_saved(job_id, step=10)
        trainer = service.trainer_pid()
        cable.cut()
        service.until(lambda: not alive(trainer))
        assert service.reap() == [], "the lease must not be over before the trainer is"
        thread.join(60)
        cable.mend()
    assert service.job(job_id).status == "running", "nothing more was written"
    service.until(lambda: service.reap() == [job_id])
    assert service.job(job_id).attempts[0].outcome == "lost"


@contextmanager
def _files_up_to(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that: the errors of a full disk, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_without_room_is_told_and_the_job_goes_on(
    embedded: Service, expected: Callable[[int], bytes]
) -> None:
    job_id = embedded.submit(steps="9", every="5", ballast=str(9 << 20))
    with _files_up_to(8 << 20):
        assert embedded.run_one()
    assert embedded.job(job_id).status == "succeeded"
    (warning,) = embedded.events(job_id, "warning")
    assert "step 5 could not be stored" in warning.message
    assert embedded.checkpoint_steps(job_id) == []
    assert embedded.content(job_id, "student.safetensors") == expected(9)


def test_a_work_folder_that_cannot_be_made_is_a_crash_said_at_once(embedded: Service) -> None:
    job_id = embedded.submit()
    embedded.work_root.write_text("a file where the folder should be")
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "crashed")
    assert "The worker could not go on: FileExistsError" in job.status_reason


def test_an_end_whose_answer_was_lost_is_said_again_and_refused_as_no_late_write(embedded: Service) -> None:
    job_id = embedded.submit(steps="3")
    ends = []
    once = embedded.database.transaction

    @contextmanager
    def forgetful() -> Iterator[Any]:
        """Commits, and loses the first answer about an end."""
        with once() as session:
            yield session
            status = session.execute(text("SELECT status FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one()
        if status == "succeeded" and not ends:
            ends.append(status)
            raise Unavailable("The answer to the commit is lost.")

    embedded.database.transaction = forgetful
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].refused_writes, ends) == ("succeeded", 0, ["succeeded"])
    assert [each.type for each in embedded.events(job_id)].count("succeeded") == 1
