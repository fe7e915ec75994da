"""The service that `inference.py` measures: a job that was really distilled, and the real processes over it."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from PIL import Image

from distillery import spec as specs
from distillery.client import Client
from distillery.spec.dataset import DigitsData
from engine.data.readers import load
from store import inference, jobs, servable
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database, migrate
from store.servable import Asked
from worker.attempt import run_one

READY_SECONDS = 120.0
ROLES = ("student", "teacher")
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Way:
    """One request, again and again."""

    port: int
    path: str
    key: str
    body: bytes


@dataclass(frozen=True)
class Pair:
    """An API and an inference worker over a database of their own."""

    url: str
    """Of the database."""
    port: int
    api: psutil.Process
    worker: psutil.Process
    announced_seconds: float
    """From the start of the worker's process until the API can find it."""

    @property
    def memory(self) -> float:
        """Of both together, in MiB."""
        return float(self.api.memory_info().rss + self.worker.memory_info().rss) / MEBIBYTE


@dataclass(frozen=True)
class Subject:
    """What is asked about what."""

    folder: Path
    models: dict[str, str]
    """The id of each role."""
    body: bytes

    def through_api(self, at: Pair, role: str) -> Way:
        """As everybody asks."""
        return Way(at.port, f"/v1/models/{self.models[role]}/predict", "none", self.body)

    def to_worker(self, at: Pair, role: str) -> Way:
        """As the API asks, which is left out: what batching brings shows where nothing stands before it."""
        with contextlib.closing(Database(at.url)) as database, database.read() as session:
            (worker,) = inference.living(session)
            network = servable.of_model(session, self.models[role])
        asked = Asked(job_id=None, networks=(network,), media_type="application/json", top_k=1, logits=False)
        content = asked.model_dump_json().encode() + b"\n" + self.body
        return Way(int(worker.url.rpartition(":")[2]), "/predict", worker.token, content)


def distilled(folder: Path, *, teacher: str, student: str, image_size: int) -> Subject:
    """Run the job, here."""
    data = {"kind": "digits", "image_size": image_size}
    training = {"epochs": 1, "batch_size": 64, "seed": 0, "device": "cpu", "precision": "fp32"}
    sent = specs.parse(
        {
            "dataset": data,
            "teacher": {
                "architecture": teacher,
                "train": {"epochs": 1},
                "minimum_accuracy": 0,
            },  # it is timed, not used
            "student": {"architecture": student},
            "training": training,
            "baseline": False,
            "latency": None,
        }
    )
    url = f"sqlite:///{folder / 'distillery.db'}"
    migrate(url)
    database = Database(url)
    with database.transaction() as session:
        job_id = jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id
    run_one(
        database, Artifacts(str(folder / "artifacts")), worker="benchmark", queues=("default",), lease=LeaseConfig(),
        stop=threading.Event(), work_root=folder / "work",
    )  # fmt: skip
    with database.read() as session:
        job = jobs.get(session, job_id)
    assert job.status == "succeeded", job.error
    database.close()
    with pair(folder, "distillery.db") as running, Client(f"http://127.0.0.1:{running.port}") as client:
        kept = {model.role: model.id for model in client.models()}
    digit = load(DigitsData.model_validate(data)).test.images[0][0]
    held = io.BytesIO()
    Image.fromarray(digit.numpy()).save(held, "PNG")
    body = json.dumps({"images": [b64encode(held.getvalue()).decode()], "top_k": 1}).encode()
    return Subject(folder, {role: kept[role] for role in ROLES}, body)


@contextlib.contextmanager
def pair(folder: Path, database: str, **environment: str) -> Iterator[Pair]:
    """Both processes, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    url = f"sqlite:///{folder / database}"
    told = {
        "DISTILLERY_DATABASE_URL": url, "DISTILLERY_ARTIFACTS": str(folder / "artifacts"),
        "DISTILLERY_WORK_DIR": str(folder / "work"), "DISTILLERY_API_KEY": "", "DISTILLERY_PREDICTIONS": "256",
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(process(folder, "app.serve", "--port", str(port), **told | environment))
        until(lambda: ready(port), api)
        began = time.monotonic()
        worker = stack.enter_context(process(folder, "worker.inference", **told | environment))
        until(lambda: announced(url), worker)
        yield Pair(url, port, psutil.Process(api.pid), psutil.Process(worker.pid), time.monotonic() - began)


@contextlib.contextmanager
def process(folder: Path, *command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours, ended by SIGTERM."""
    with (folder / f"{command[0]}.log").open("ab") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", *command], env=os.environ | environment, stdout=log, stderr=log
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)


def until(condition: Callable[[], bool], running: "subprocess.Popen[bytes]") -> None:
    """Return when it holds."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert running.poll() is None, f"{running.args} ended with code {running.returncode}"
        assert time.monotonic() < deadline, f"{running.args} is not ready after {READY_SECONDS:.0f} s"
        time.sleep(0.01)


def ready(port: int) -> bool:
    """Whether the API serves."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK
    return False


def announced(url: str) -> bool:
    """Whether the API would find a worker."""
    with contextlib.closing(Database(url)) as database, database.read() as session:
        return bool(inference.living(session))
