"""The API as the process that is really run: it is stopped, killed and started again, and nothing accepted is lost."""

import signal
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


@pytest.fixture
def process(api_process: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    with api_process(tmp_path, DISTILLERY_STOP_SECONDS="2") as process:
        yield process


def test_what_was_accepted_outlives_kill_and_an_open_stream_ends_with_the_process(
    process: Any, wait_until: Callable[..., Any]
) -> None:
    process.start()
    accepted = [httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"] for _ in range(5)]
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL

    process.start()
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
    assert process.stop(signal.SIGTERM) == 0
    listener.join(timeout=30)
    assert not listener.is_alive()


def _streaming(process: Any) -> bool:
    """Whether the service has begun to answer the stream, by its own count."""
    return 'route="/v1/jobs/{job_id}/events"' in httpx.get(f"{process.url}/metrics").text


def test_a_service_without_its_addresses_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILLERY_DATABASE_URL", "DISTILLERY_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidRequest, match="DISTILLERY_DATABASE_URL is not set"):
        create_app()
