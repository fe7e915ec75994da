"""A store with jobs in it, on either database."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from distillery.errors import Unavailable
from distillery.spec import JobSpec, parse, resolve
from distillery.views import Job, JobError
from store import jobs, leases
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database
from store.leases import Claim

SHA = "ab" * 32
LEASE = LeaseConfig(lease_seconds=60, heartbeat_seconds=10, backoff_seconds=(10, 60, 300))


def spec(**changes: Any) -> JobSpec:
    """A small valid spec."""
    return parse(
        {
            "dataset": {"name": "digits"},
            "teacher": {"architecture": "seed_teacher", "train": {"epochs": 1}},
            "student": {"architecture": "seed_student"},
            **changes,
        }
    )


@dataclass(frozen=True)
class Shop:
    """Each call is a transaction of its own, as it is in the service."""

    database: Database
    lease: LeaseConfig = LEASE

    def submit(self, **changes: Any) -> Job:
        sent = spec(**changes)
        with self.database.transaction() as session:
            return jobs.submit(session, sent=sent, resolved=resolve(sent))

    def claim(self, job_id: str | None = None, *, worker: str = "worker-1", lease_seconds: float = 60) -> Claim:
        with self.database.transaction() as session:
            claim = leases.claim(session, worker=worker, queues=["default"], lease_seconds=lease_seconds, job_id=job_id)
        assert claim is not None, "there was nothing to claim"
        return claim

    def claimed(self, **changes: Any) -> Claim:
        return self.claim(self.submit(**changes).id)

    def do(self, verb: Any, *arguments: Any, **options: Any) -> Any:
        with self.database.transaction() as session:
            return verb(session, *arguments, **options)

    def patiently(self, verb: Any, *arguments: Any, **options: Any) -> Any:
        """As a worker does: on a busy machine a writer may have to come again."""
        for _ in range(20):
            with contextlib.suppress(Unavailable):
                return self.do(verb, *arguments, **options)
        raise AssertionError("the database stayed busy for minutes")

    def see(self, view: Any, *arguments: Any, **options: Any) -> Any:
        with self.database.read() as session:
            return view(session, *arguments, **options)

    def job(self, job_id: str) -> Job:
        return self.see(jobs.get, job_id)  # type: ignore[no-any-return]  # `see` gives what its view gives

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as session:
            result: Any = session.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def expire(self, job_id: str) -> None:
        """Let the lease be over, without waiting for it."""
        self.sql("UPDATE jobs SET lease_expires_at = 1 WHERE id = :id", id=job_id)

    def no_backoff(self, job_id: str) -> None:
        """Let the wait after a crash be over, without waiting for it."""
        self.sql("UPDATE jobs SET not_before = 0 WHERE id = :id", id=job_id)

    def save(self, claim: Claim, step: int, **changes: Any) -> Any:
        stored = {
            "key": f"jobs/{claim.id}/a{claim.attempt}/step-{step}.ckpt", "sha256": SHA, "size_bytes": 10,
            "step": step, "phase": "training",
        }  # fmt: skip
        return self.do(leases.checkpoint, claim, **stored | changes)

    def deliver(self, claim: Claim, name: str = "student.safetensors", **changes: Any) -> None:
        stored = {
            "name": name, "key": f"jobs/{claim.id}/a{claim.attempt}/{name}", "media_type": "application/octet-stream",
            "sha256": SHA, "size_bytes": 10,
        }  # fmt: skip
        self.do(leases.artifact, claim, **stored | changes)

    def crash(self, claim: Claim, *, exit_code: int = -9) -> None:
        self.do(leases.crash, claim, exit_code=exit_code, detail="killed", lease=self.lease)

    def fail(self, claim: Claim) -> None:
        error = JobError(type="urn:test", title="Bad data", detail="The data is bad.", code="UNREADABLE_DATA")
        self.do(leases.fail, claim, error=error, exit_code=1)

    def event_numbers(self, job_id: str) -> list[int]:
        rows = self.sql("SELECT seq FROM events WHERE job_id = :id ORDER BY seq", id=job_id)
        return [row.seq for row in rows]

    def event_types(self, job_id: str) -> list[str]:
        rows = self.sql("SELECT type FROM events WHERE job_id = :id ORDER BY seq", id=job_id)
        return [row.type for row in rows]


@dataclass(frozen=True)
class Place:
    """An artifact store, and a way into it past our own code."""

    artifacts: Artifacts
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], None]
    keys: Callable[[], list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a local artifact store lies."""
    return tmp_path / "some where" / "artifacts"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty artifact store: a local folder, and S3 below a prefix, in turn."""
    if request.param == "s3":
        bucket: Any = request.getfixturevalue("bucket")
        return Place(
            Artifacts(f"s3://{bucket.name}/some/prefix"),
            lambda key: bucket.read(f"some/prefix/{key}"),
            lambda key, content: bucket.write(f"some/prefix/{key}", content),
            lambda: sorted(key.removeprefix("some/prefix/") for key in bucket.objects()),
        )
    folder: Path = request.getfixturevalue("folder")

    def write(key: str, content: bytes) -> None:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)

    return Place(
        Artifacts(str(folder)),
        lambda key: (folder / key).read_bytes(),
        write,
        lambda: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    )


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """One migrated Postgres database for all tests of this room: to make one takes longer than most of them."""
    name = f"distillery_store_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{postgres_template}"')
        try:
            yield f"{postgres_server.rpartition('/')[0]}/{name}"
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database without rows, SQLite and Postgres in turn."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    url = str(request.getfixturevalue("shared_postgres"))
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM jobs")  # all else goes with them, but for these
        connection.execute("DELETE FROM webhooks")
        connection.execute("DELETE FROM inference_workers")
        connection.execute("DELETE FROM outbox")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, SQLite and Postgres in turn."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def shop(database: Database) -> Shop:
    """A store to submit jobs to and to work them off, SQLite and Postgres in turn."""
    return Shop(database)
