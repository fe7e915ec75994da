"""Both clients follow a job while its service is killed and started again, in the middle of many events."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillery import spec as specs
from distillery.client import AsyncClient, Client
from distillery.views import Event
from store import events, jobs, leases
from store.artifacts import Artifacts
from store.db import Database
from store.leases import Claim
from tests.app.conftest import Worker
from tests.faults.servers import Api, running_api

ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
BETWEEN = 60
"""Events that each reader has had from a service before that is ended."""
SPEC = specs.parse({
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
})  # fmt: skip


@pytest.fixture
def worker(sqlite_url: str, tmp_path: Path) -> Iterator[Worker]:
    database = Database(sqlite_url)
    yield Worker(database, Artifacts(str(tmp_path / "artifacts")), tmp_path)
    database.close()


@pytest.fixture
def api(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    environment = {"DISTILLERY_DATABASE_URL": sqlite_url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    with running_api(environment | {"DISTILLERY_STOP_SECONDS": "1"}, log=tmp_path / "api.log") as running:
        yield running


class Reader(threading.Thread):
    """Follows a job to its end."""

    def __init__(self, follow: Callable[[list[Event]], None]) -> None:
        super().__init__(daemon=True)
        self.heard: list[Event] = []
        self.ended = False
        self._follow = follow

    def run(self) -> None:
        self._follow(self.heard)
        self.ended = True

    def has_heard(self, count: int) -> None:
        """Wait until it has had so many events."""
        give_up = time.monotonic() + 120
        while len(self.heard) < count:
            assert self.is_alive(), f"it ended after {len(self.heard)} events"
            assert time.monotonic() < give_up, f"it has had {len(self.heard)} events of {count}"
            time.sleep(0.01)


def readers(url: str, job_id: str) -> list[Reader]:
    def follow(heard: list[Event]) -> None:
        with Client(url) as client:
            heard.extend(client.stream(job_id))

    async def follow_async(heard: list[Event]) -> None:
        async with AsyncClient(url) as client:
            async for event in client.stream(job_id):
                heard.append(event)  # noqa: PERF401 - whoever waits for it looks on meanwhile

    return [Reader(follow), Reader(lambda heard: asyncio.run(follow_async(heard)))]


class Writer(threading.Thread):
    """A worker that has something to tell without a break, whether or not anybody serves it."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        super().__init__(daemon=True)
        self._worker, self._claim, self._over = worker, claim, threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.wait(0.004):
            number += 1
            self._worker.do(leases.event, self._claim, "warning", f"No. {number}. " + "x" * 500)

    def end(self) -> None:
        self._over.set()
        self.join(60)
        self._worker.succeed(self._claim)


def test_every_event_is_heard_once_over_kills_and_restarts_of_the_service(api: Api, worker: Worker) -> None:
    with worker.database.transaction() as session:
        job_id = jobs.submit(session, sent=SPEC, resolved=specs.resolve(SPEC)).id
    following = readers(api.url, job_id)
    for reader in following:
        reader.start()
    writer = Writer(worker, worker.claim(job_id))
    writer.start()
    for how in ENDS:
        marks = [len(reader.heard) + BETWEEN for reader in following]
        for reader, mark in zip(following, marks, strict=True):
            reader.has_heard(mark)
        api.stop(how)
        api.start()
    writer.end()
    for reader in following:
        reader.join(120)
        assert reader.ended
    with worker.database.read() as session:
        written = events.after(session, job_id, seq=0, limit=1_000_000)
    assert len(written) > BETWEEN * len(ENDS)
    assert written[-1].type == "succeeded"
    for reader in following:
        assert reader.heard == written
