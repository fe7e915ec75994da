"""A client whose answer is lost after the service has committed asks again, and there is one job."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from distillery.client import AsyncClient, Client

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close sends RST in place of FIN."""


@contextmanager
def losing_first_answer(url: str) -> Iterator[str]:
    """A proxy that takes the first whole answer to a POST, and resets the connection instead of passing it on."""
    host, _, port = url.removeprefix("http://").partition(":")
    lost = threading.Event()

    def carry(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection((host, int(port)), timeout=30) as service:
            asked = client.recv(1 << 20)
            while b"\r\n\r\n" not in asked or not _whole(asked):
                asked += client.recv(1 << 20)
            service.sendall(asked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            answer = b"".join(iter(lambda: service.recv(1 << 16), b""))
            if asked.startswith(b"POST") and not lost.is_set():
                lost.set()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=carry, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
    assert lost.is_set(), "no answer was lost, so nothing was shown"


def _whole(asked: bytes) -> bool:
    head, _, body = asked.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return len(body) >= int(lengths[0] if lengths else 0)


@pytest.mark.parametrize("verb", ["submit", "retry", "clone"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_client_whose_answer_is_lost_makes_one_job(either: Any, verb: str, kind: str) -> None:
    old = either.submit()["id"]
    either.http.post(f"/v1/jobs/{old}:cancel").raise_for_status()
    argument: Any = SPEC if verb == "submit" else old

    async def ask(url: str) -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, verb)(argument)

    with losing_first_answer(either.url) as url:
        if kind == "async":
            job = asyncio.run(ask(url))
        else:
            with Client(url) as client:
                job = getattr(client, verb)(argument)
    listed = [each["id"] for each in either.http.get("/v1/jobs").json()["data"]]
    assert sorted(listed) == sorted([old, job.id])
