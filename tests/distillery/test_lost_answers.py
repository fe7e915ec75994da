"""Row 15: the request arrives, its answer is lost on the way back, and what was asked for is there once."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from distillery.client import AsyncClient, Client, Timeouts
from distillery.errors import ServiceRefused, Unavailable
from distillery.views import Job
from store.artifacts import Artifacts
from store.db import Database
from tests.app.conftest import Worker
from tests.faults.servers import Api, running_api

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
PATIENT = Timeouts(connect=5, read=10, write=10, outage=60)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class Lossy:
    """A TCP proxy. It passes every request on; of each answer for which `losses` holds a number it passes only so many
    bytes, and then hangs up on the client, after the service has done what it was asked for.
    """

    to_port: int
    losses: list[int] = field(default_factory=list)
    reset: bool = False
    lost: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to_port))
            for passing in (self._requests, self._answers):
                threading.Thread(target=passing, args=(near, far), daemon=True).start()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := near.recv(65_536):
                far.sendall(received)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    def _answers(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while received := far.recv(65_536):
                if not self.losses:
                    near.sendall(received)
                    continue
                near.sendall(received[: self.losses.pop(0)])
                self.lost += 1
                if self.reset:
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                near.shutdown(socket.SHUT_RD)  # or the other thread would keep the connection open
                return


@dataclass(frozen=True)
class Behind:
    """A service behind a lossy line, and a look at its database past both."""

    lossy: Lossy
    worker: Worker

    def ask(self, wish: Callable[[Any], Any], *, kind: str) -> Any:
        """What one of the clients makes of it, through the proxy."""

        async def asked() -> Any:
            async with AsyncClient(self.lossy.url, timeouts=PATIENT) as client:
                return await wish(client)

        if kind == "async":
            return asyncio.run(asked())
        with Client(self.lossy.url, timeouts=PATIENT) as client:
            return wish(client)

    def rows(self) -> list[str]:
        """The ids of all jobs and measurements, oldest first."""
        with self.worker.database.read() as session:
            return [str(each) for each in session.scalars(text("SELECT id FROM jobs ORDER BY created_at, id"))]

    def ended(self) -> tuple[str, str]:
        """The ids of a job that has succeeded and of one that was cancelled."""
        with Client(self.lossy.url) as client:
            done = client.submit(SPEC).id
            self.worker.succeed(self.worker.claim(done))
            return done, client.cancel(client.submit(SPEC).id).id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    folder = tmp_path_factory.mktemp("lossy")
    (folder / "distillery.db").write_bytes(sqlite_template.read_bytes())
    return folder


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[Api]:
    url = f"sqlite:///{home / 'distillery.db'}"
    environment = {"DISTILLERY_DATABASE_URL": url, "DISTILLERY_ARTIFACTS": str(home / "artifacts")}
    with running_api(environment, log=home / "api.log") as running:
        yield running


@pytest.fixture
def behind(api: Api, home: Path) -> Iterator[Behind]:
    lossy = Lossy(int(urlsplit(api.url).port or 0))
    database = Database(f"sqlite:///{home / 'distillery.db'}")
    yield Behind(lossy, Worker(database, Artifacts(str(home / "artifacts")), home))
    database.close()
    lossy.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("reset", [False, True])
def test_what_was_asked_for_is_there_once_and_is_what_the_client_returns(
    behind: Behind, kind: str, reset: bool
) -> None:
    done, stopped = behind.ended()
    behind.lossy.reset = reset
    wishes: list[Callable[[Any], Any]] = [
        lambda client: client.submit(SPEC),
        lambda client: client.retry(stopped),
        lambda client: client.clone(done, {"name": "cloned"}),
        lambda client: client.measure_latency(done, wait=False),
    ]
    for wish in wishes:
        before = behind.rows()
        behind.lossy.losses, behind.lossy.lost = [0, 15, 300], 0  # nothing, a broken head, a broken body
        made = behind.ask(wish, kind=kind)
        assert behind.lossy.lost == 3
        assert set(behind.rows()) - set(before) == {made.id}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_repeat_does_not_change_comes_through(behind: Behind, kind: str) -> None:
    job = behind.ask(lambda client: client.submit(SPEC), kind=kind)
    for wish, status in (
        (lambda client: client.pause(job.id), "paused"),
        (lambda client: client.edit(job.id, labels={"a": "b"}), "paused"),
        (lambda client: client.cancel(job.id), "cancelled"),
    ):
        behind.lossy.losses = [0] if status == "paused" else []
        told: Job = behind.ask(wish, kind=kind)
        assert told.status == status
    assert told.labels == {"a": "b"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_cannot_be_repeated_says_that_it_may_be_done(behind: Behind, kind: str) -> None:
    _, stopped = behind.ended()
    behind.lossy.losses = [0]
    with pytest.raises(Unavailable) as caught:
        behind.ask(lambda client: client.delete(stopped), kind=kind)
    assert "may have been done" in caught.value.hint
    with pytest.raises(ServiceRefused, match="There is no job"):
        behind.ask(lambda client: client.job(stopped), kind=kind)
