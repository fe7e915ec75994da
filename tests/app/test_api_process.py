"""The API as the process that is really run: it is stopped, killed and started again, and nothing accepted is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from app.main import create_app
from distillery.errors import InvalidRequest

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


class Process:
    """`uvicorn --factory app.main:create_app`, configured by its environment."""

    def __init__(self, environment: dict[str, str], port: int) -> None:
        self._environment, self._port = environment, port
        self.url = f"http://127.0.0.1:{port}"
        self.running: subprocess.Popen[bytes] | None = None

    def start(self, wait_until: Callable[..., Any]) -> None:
        """Start it and wait until it is ready."""
        command = [
            sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(self._port),
            "--timeout-graceful-shutdown", "2", "--no-access-log",
        ]  # fmt: skip
        self.running = subprocess.Popen(command, env=os.environ | self._environment)
        wait_until(self._ready, seconds=120)

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


@pytest.fixture
def process(sqlite_url: str, tmp_path: Path, unused_port: Callable[[], int]) -> Iterator[Process]:
    environment = {"DISTILLERY_DATABASE_URL": sqlite_url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    process = Process(environment, unused_port())
    yield process
    if process.running is not None and process.running.poll() is None:
        process.stop(signal.SIGKILL)


def test_what_was_accepted_outlives_kill_and_an_open_stream_ends_with_the_process(
    process: Process, wait_until: Callable[..., Any]
) -> None:
    process.start(wait_until)
    accepted = [httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"] for _ in range(5)]
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL

    process.start(wait_until)
    listed = httpx.get(f"{process.url}/v1/jobs").json()["data"]
    assert [job["id"] for job in listed] == accepted[::-1]

    received: list[str] = []

    def listen() -> None:
        address = f"{process.url}/v1/jobs/{accepted[0]}/events"
        try:
            with httpx.Client(timeout=60) as http, connect_sse(http, "GET", address) as source:
                received.extend(event.id for event in source.iter_sse())
        except httpx.TransportError:
            received.append("cut")

    listener = threading.Thread(target=listen)
    listener.start()
    wait_until(lambda: "1" in received or not listener.is_alive() or _streaming(process))
    assert process.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    listener.join(timeout=30)
    assert not listener.is_alive()


def _streaming(process: Process) -> bool:
    """Whether the service has begun to answer the stream, by its own count."""
    return 'route="/v1/jobs/{job_id}/events"' in httpx.get(f"{process.url}/metrics").text


def test_a_service_without_its_addresses_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILLERY_DATABASE_URL", "DISTILLERY_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidRequest, match="DISTILLERY_DATABASE_URL is not set"):
        create_app()
