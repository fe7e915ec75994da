"""The queue under `api_load.py`: filled by the store's own verbs, and claimed from by processes of their own."""

import contextlib
import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue

import psycopg

from distillery.ids import new_id
from distillery.spec import JobSpec, resolve
from store import jobs, leases
from store.db import Database, migrate

DEFAULT_SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"
BATCH = 500
SPAWN = multiprocessing.get_context("spawn")
SPEC = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


@dataclass(frozen=True)
class Claims:
    """What some processes measured: seconds of each claim, and rounds of claim (and finish) a second of all."""

    seconds: list[float]
    per_second: float


@contextlib.contextmanager
def postgres(*, tables: bool = True) -> Iterator[str]:
    """A migrated database on TEST_DATABASE_URL's server, dropped at the end; gives its URL. Or one without `tables`."""
    server = os.environ.get("TEST_DATABASE_URL", DEFAULT_SERVER)
    name = f"distillery_load_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            url = f"{server.rpartition('/')[0]}/{name}"
            if tables:
                migrate(url)
            yield url
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextlib.contextmanager
def sqlite(*, tables: bool = True) -> Iterator[str]:
    """A migrated file, deleted at the end; gives its URL. Or one without `tables`."""
    with tempfile.TemporaryDirectory(prefix="distillery-load-") as folder:
        url = f"sqlite:///{Path(folder) / 'distillery.db'}"
        if tables:
            migrate(url)
        yield url


def fill(url: str, count: int) -> list[str]:
    """Queue so many jobs; their ids."""
    spec = JobSpec.model_validate(SPEC)
    ids = [new_id("job") for _ in range(count)]
    database = Database(url)
    for start in range(0, count, BATCH):
        with database.transaction() as session:
            for job_id in ids[start : start + BATCH]:
                jobs.add_row(session, job_id, kind="distillation", sent=spec, resolved=resolve(spec))
    database.close()
    return ids


def claims(url: str, *, processes: int, each: int, finish: bool = False) -> Claims:
    """Let so many processes claim `each` jobs one after the other, and finish each of them where that is asked for."""
    together, told = SPAWN.Barrier(processes), SPAWN.Queue()
    workers = [
        SPAWN.Process(target=_claim, args=(url, each, finish, together, told), daemon=True) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    answers = [told.get() for _ in workers]
    for worker in workers:
        worker.join()
    began, ended = min(answer[0] for answer in answers), max(answer[1] for answer in answers)
    return Claims([value for answer in answers for value in answer[2]], processes * each / (ended - began))


def _claim(
    url: str, count: int, finish: bool, together: Barrier, told: "Queue[tuple[float, float, list[float]]]"
) -> None:
    database, seconds = Database(url), []
    database.ping()  # a worker has its connection already
    together.wait()
    began = time.monotonic()
    for _ in range(count):
        start = time.perf_counter()
        with database.transaction() as session:
            claim = leases.claim(session, worker=f"load-{os.getpid()}", queues=["default"], lease_seconds=3600)
        seconds.append(time.perf_counter() - start)
        assert claim is not None, "the queue is empty"
        if finish:
            with database.transaction() as session:
                leases.succeed(session, claim, summary="Done.")
    told.put((began, time.monotonic(), seconds))
    database.close()
