"""Services to be broken. When a test ends, their workers are stopped, and every invariant of the store must hold."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from distillery.errors import Unavailable
from store import invariants
from store.db import migrate
from store.tables import JobRow
from tests.faults.servers import Cable, Postgres, Redis, cable_to, private_postgres, private_redis
from tests.worker.conftest import Service, alive, expected

__all__ = ["alive", "expected"]


class Faulted(Service):
    """A service that is broken on purpose. Its doomed workers have a lease that is soon over."""

    DOOMED_SECONDS = 3.0

    def start_doomed(self, **options: Any) -> Any:
        """A worker that is going to lose its job."""
        return self.start_embedded(lease_seconds=self.DOOMED_SECONDS, **options)

    def owner_pid(self, job_id: str) -> int:
        """The worker process that has the job."""
        return int(self.job(job_id).attempts[-1].worker.rpartition(":")[2])

    def kinds(self, job_id: str) -> list[str]:
        """The types of its events, in order."""
        return [each.type for each in self.events(job_id)]

    def saved(self, job_id: str) -> list[tuple[int, int]]:
        """Attempt and step of every checkpoint that was ever committed, in the order of the commits."""
        return [(each.attempt or 0, each.data["step"]) for each in self.events(job_id, "checkpoint")]

    def counted(self, job_id: str) -> dict[str, Any]:
        """What the row counts and the API does not tell."""
        columns = JobRow.status, JobRow.preemptions, JobRow.crashes
        with self.database.read() as session:
            return dict(session.execute(select(*columns).where(JobRow.id == job_id)).one()._mapping)

    def jobs(self) -> set[str]:
        """The ids of all of them."""
        with self.database.read() as session:
            return set(session.scalars(select(JobRow.id)))

    def jobs_by_status(self) -> dict[str, int]:
        """How many there are of each."""
        with self.database.read() as session:
            counted = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            return {str(status): int(count) for status, count in counted}

    def expire(self, job_id: str) -> None:
        """Let its lease be over, as if its worker had been silent for so long.

        A worker that was stopped in the midst of a write holds the row until the server ends its transaction.
        """
        self.until(lambda: self._expired(job_id))

    def _expired(self, job_id: str) -> bool:
        with contextlib.suppress(Unavailable), self.database.transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_expires_at=0.0))
            return True
        return False

    def lose(self, worker: subprocess.Popen[bytes], job_id: str) -> None:
        """Kill its worker and let its lease be over."""
        worker.kill()
        worker.wait()
        self.expire(job_id)

    def stop_workers(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def holds(self) -> None:
        """Every invariant of the database and the artifact store, with the hash of every file."""
        with self.database.read() as session:
            assert invariants.violations(session, self.artifacts, verify=True) == []


@pytest.fixture
def service_at(tmp_path: Path) -> Iterator[Callable[..., Faulted]]:
    """Makes a service on the database at an address."""
    made: list[Faulted] = []

    def make(url: str, redis_url: str | None = None) -> Faulted:
        made.append(Faulted(url, tmp_path, redis_url))
        return made[-1]

    yield make
    try:
        for each in made:
            each.stop_workers()
            each.holds()
    finally:
        for each in made:
            each.close()


@pytest.fixture
def service(postgres_url: str, service_at: Callable[..., Faulted]) -> Faulted:
    """On Postgres, without a broker."""
    return service_at(postgres_url)


@pytest.fixture
def either(database_url: str, service_at: Callable[..., Faulted]) -> Faulted:
    """On SQLite and on Postgres, without a broker."""
    return service_at(database_url)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A Postgres of the test's own, migrated."""
    with private_postgres() as server:
        migrate(server.url)
        yield server


@pytest.fixture
def redis() -> Iterator[Redis]:
    """A Redis of the test's own."""
    with private_redis() as server:
        yield server


@pytest.fixture
def brokered(postgres_url: str, redis: Redis, service_at: Callable[..., Faulted]) -> Faulted:
    """On Postgres, with a Redis that the test may break."""
    return service_at(postgres_url, redis.url)


@pytest.fixture
def cable(postgres_url: str) -> Iterator[Cable]:
    """Between a worker and the database of `service`."""
    with cable_to(postgres_url) as cable:
        yield cable
