"""The API as a live server on a free port, over a migrated database, with the hand of a worker to move jobs along."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from distillery.views import Problem
from store import inference, leases
from store.artifacts import Artifacts
from store.config import StoreConfig
from store.db import Database
from store.inference import InferenceWorker
from store.leases import Claim
from tests.app.raw_http import HASTY, KEY, SPEC
from worker.messages import ModelFacts


def until(condition: Callable[[], Any], *, seconds: float = 30) -> Any:
    """What `condition` gives, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"{condition} did not come true in {seconds} s")


class Process:
    """`python -m app.serve`, configured by its environment."""

    def __init__(self, folder: Path, *, port: int, **environment: str) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        self.database_url = f"sqlite:///{folder / 'distillery.db'}"
        addresses = {"DISTILLERY_DATABASE_URL": self.database_url, "DISTILLERY_ARTIFACTS": str(folder / "artifacts")}
        self.environment = os.environ | addresses | environment
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "app.serve", "--port", str(self.port)]
        self.running = subprocess.Popen(command, env=self.environment)
        until(self._ready, seconds=120)

    def _ready(self) -> bool:
        assert self.running is not None
        assert self.running.poll() is None, "the API ended while it was starting"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, with_signal: int) -> int:
        """Send the signal and wait for the end; the exit code."""
        assert self.running is not None
        self.running.send_signal(with_signal)
        return self.running.wait(timeout=60)


@dataclass(frozen=True)
class Worker:
    """What a worker would write, written by the store's own functions."""

    database: Database
    artifacts: Artifacts
    folder: Path

    def claim(self, job_id: str) -> Claim:
        """Begin an attempt."""
        with self.database.transaction() as session:
            claim = leases.claim(session, worker="worker-1", queues=["default"], lease_seconds=60, job_id=job_id)
        assert claim is not None
        return claim

    def do(self, verb: Any, claim: Claim, *arguments: Any, **options: Any) -> Any:
        """One function of `store.leases`, in a transaction of its own."""
        with self.database.transaction() as session:
            return verb(session, claim, *arguments, **options)

    def store(self, claim: Claim, name: str, content: bytes) -> dict[str, Any]:
        """Put a file into the artifact store."""
        path = self.folder / "incoming"
        path.write_bytes(content)
        key = f"jobs/{claim.id}/a{claim.attempt}/{name}"
        self.artifacts.put(key, path)
        return {"key": key, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}

    def deliver(self, claim: Claim, name: str, content: bytes, *, media_type: str = "application/octet-stream") -> None:
        """Deliver an artifact."""
        self.do(leases.artifact, claim, name=name, media_type=media_type, **self.store(claim, name, content))

    def checkpoint(self, claim: Claim, *, step: int, content: bytes) -> str:
        """Save a checkpoint; its id."""
        stored = self.store(claim, f"step-{step}.ckpt", content)
        return str(self.do(leases.checkpoint, claim, step=step, phase="training", **stored).id)

    def succeed(self, claim: Claim) -> None:
        """End the job well, with a student delivered."""
        weights = b"the weights of a student"
        self.deliver(claim, "student.safetensors", weights)
        facts = ModelFacts(
            role="student", artifact="student.safetensors", architecture=claim.spec.student.architecture,
            classes=("0", "1"), image_size=8, channels=1, mean=(0.5,), std=(0.5,), accuracy=0.9,
            sha256=hashlib.sha256(weights).hexdigest(),
        )  # fmt: skip
        self.do(leases.succeed, claim, summary="It helped.", models=[facts])


@dataclass(frozen=True)
class Live:
    """A running API."""

    app: FastAPI
    url: str
    http: httpx.Client
    worker: Worker

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit the small spec with these fields changed; the job."""
        answer = self.http.post("/v1/jobs", json=SPEC | changes)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def succeeded(self, **changes: Any) -> str:
        """The id of a job that has succeeded."""
        job_id = str(self.submit(**changes)["id"])
        self.worker.succeed(self.worker.claim(job_id))
        return job_id


def refused(answer: httpx.Response, status: int, code: str) -> Problem:
    """The problem in an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.code) == (status, code)
    assert problem.trace_id == answer.headers["x-request-id"]
    assert problem.title
    assert problem.detail
    return problem


@contextmanager
def serving(app: Any, *, graceful_seconds: int = 5) -> Iterator[str]:
    """Serve `app` in a thread for as long as the block lasts; gives its URL."""
    options: dict[str, Any] = {"log_config": None, "ws": "none", "lifespan": "on", "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=graceful_seconds, **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@contextmanager
def launched(
    database_url: str,
    folder: Path,
    *,
    api_key: str | None = None,
    redis_url: str | None = None,
    artifacts_url: str | None = None,
) -> Iterator[Live]:
    """A live API over this database; its artifacts lie below the folder, unless another place is named."""
    config = StoreConfig(database_url, artifacts_url or str(folder / "artifacts"), redis_url)
    app = create_app(config, api_key=api_key)
    database = Database(database_url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            yield Live(app, url, http, Worker(database, Artifacts(config.artifacts_url), folder))
    finally:
        database.close()


@pytest.fixture(scope="session")
def launch_anywhere(sqlite_template: Path) -> Callable[..., Any]:
    """Launches an API on SQLite in a folder of the test's choice."""

    def launch(folder: Path, **options: Any) -> Any:
        shutil.copy(sqlite_template, folder / "distillery.db")
        return launched(f"sqlite:///{folder / 'distillery.db'}", folder, **options)

    return launch


@pytest.fixture(scope="session")
def api_process(sqlite_template: Path) -> Callable[..., Any]:
    """An API on SQLite as a process of its own, configured by the variables given; not started yet."""

    @contextmanager
    def prepare(folder: Path, **environment: str) -> Iterator[Process]:
        shutil.copy(sqlite_template, folder / "distillery.db")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = Process(folder, port=port, **environment)
        try:
            yield process
        finally:
            if process.running is not None and process.running.poll() is None:
                process.stop(signal.SIGKILL)

    return prepare


@pytest.fixture
def make_worker() -> Callable[[str, Path], Worker]:
    """The hand of a worker for the database at a URL, and the artifacts in a folder."""
    return lambda url, folder: Worker(Database(url), Artifacts(str(folder / "artifacts")), folder)


@pytest.fixture(scope="module")
def live(launch_anywhere: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """An API on SQLite, shared by the tests of a file."""
    with launch_anywhere(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def alone(sqlite_url: str, tmp_path: Path) -> Iterator[Live]:
    """An API on SQLite for one test."""
    with launched(sqlite_url, tmp_path) as running:
        yield running


@pytest.fixture
def either(database_url: str, tmp_path: Path) -> Iterator[Live]:
    """An API for one test: on SQLite, and again on Postgres."""
    with launched(database_url, tmp_path) as running:
        yield running


@pytest.fixture
def launch(sqlite_url: str, tmp_path: Path) -> Callable[..., Any]:
    """Launches an API on SQLite with options of the test's own."""
    return lambda **options: launched(sqlite_url, tmp_path, **options)


@pytest.fixture
def check_problem() -> Callable[[httpx.Response, int, str], Problem]:
    """Holds an answer to be a problem document of this status and code."""
    return refused


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Waits for a condition, with a deadline."""
    return until


@pytest.fixture(scope="session")
def launch_on() -> Callable[..., Any]:
    """Launches an API on a database of the test's choice."""
    return launched


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Serves any ASGI application in a thread."""
    return serving


@pytest.fixture(scope="module")
def hasty(api_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service with deadlines of a second."""
    with api_process(tmp_path_factory.mktemp("hasty"), **HASTY) as process:
        process.start()
        yield process


@pytest.fixture(scope="module")
def locked(api_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service with a key and the usual deadlines."""
    with api_process(tmp_path_factory.mktemp("locked"), DISTILLERY_API_KEY=KEY) as process:
        process.start()
        yield process


@pytest.fixture
def started(api_process: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a service for one test."""
    with contextlib.ExitStack() as stack:

        def start(**environment: str) -> Any:
            process = stack.enter_context(api_process(tmp_path, **environment))
            process.start()
            return process

        yield start


class InferenceProcess:
    """`python -m worker.inference` over a database and the artifacts in a folder."""

    def __init__(self, database_url: str, folder: Path, **environment: str) -> None:
        self._database, self._folder = Database(database_url), folder
        addresses = {
            "DISTILLERY_DATABASE_URL": database_url,
            "DISTILLERY_ARTIFACTS": str(folder / "artifacts"),
            "DISTILLERY_WORK_DIR": str(folder / "work"),
            "DISTILLERY_INFERENCE_THREADS": "1",
        }
        self.environment = os.environ | addresses | environment
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it has written."""
        return self._folder / "inference.log"

    def living(self) -> list[InferenceWorker]:
        """Those that the API would find."""
        with self._database.read() as session:
            return inference.living(session)

    @property
    def worker(self) -> InferenceWorker:
        """This one, as it announced itself."""
        return self.living()[-1]

    def start(self) -> None:
        """Start it and wait until it is announced."""
        before = {each.id for each in self.living()}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "worker.inference"]
            self.running = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        until(lambda: self._announced(before), seconds=120)

    def _announced(self, before: set[str]) -> bool:
        assert self.running is not None
        assert self.running.poll() is None, self.log.read_text()
        return bool({each.id for each in self.living()} - before)

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self.running is not None
        self.running.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit code."""
        self.send(number)
        assert self.running is not None
        return self.running.wait(timeout=60)

    def figures(self) -> dict[str, Any]:
        """What it says of itself."""
        worker = self.worker
        headers = {"Authorization": f"Bearer {worker.token}"}
        found: dict[str, Any] = httpx.get(f"{worker.url}/figures", headers=headers, timeout=60).json()
        return found

    def close(self) -> None:
        """Leave nothing behind."""
        if self.running is not None and self.running.poll() is None:
            self.running.kill()
            self.running.wait()
        self._database.close()


@pytest.fixture(scope="session")
def inference_on() -> Callable[..., Any]:
    """Prepares an inference worker for a database and a folder, with variables of the test's own; not started yet."""

    @contextmanager
    def prepare(database_url: str, folder: Path, **environment: str) -> Iterator[InferenceProcess]:
        process = InferenceProcess(database_url, folder, **environment)
        try:
            yield process
        finally:
            process.close()

    return prepare
