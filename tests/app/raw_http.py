"""HTTP by raw sockets, for clients that do not behave, against the process that is really run."""

import contextlib
import itertools
import re
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx

from distillery.views import Problem

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
KEY = "dk_live_correct-horse"
HASTY = {
    "DISTILLERY_HEAD_SECONDS": "1", "DISTILLERY_KEEP_ALIVE_SECONDS": "1", "DISTILLERY_BODY_SECONDS": "1",
    "DISTILLERY_UNREAD_SECONDS": "1",
}  # fmt: skip
MEBIBYTE = 1 << 20
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
UNKEYED = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
DEADLINE_SECONDS = 60.0


def connect(process: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", process.port), timeout=DEADLINE_SECONDS)


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            answer += piece
    return answer


def one_answer(client: socket.socket) -> None:
    """A first exchange, after which the connection stays open."""
    client.sendall(LIVEZ)
    answer = b""
    while not answer.endswith(b'{"status":"ok","checks":{}}'):
        piece = client.recv(65536)
        assert piece, answer
        answer += piece


def exchange(process: Any, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with connect(process) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        return rest(client)


def refused(answer: bytes, status: int, code: str) -> Problem:
    """The problem in a raw answer that must be one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    problem = Problem.model_validate_json(body)
    assert (problem.status, problem.code) == (status, code)
    assert b"x-request-id: %s" % problem.trace_id.encode() in head
    assert problem.detail
    assert problem.hint
    return problem


def alive(process: Any) -> bool:
    return httpx.get(f"{process.url}/livez").status_code == 200


def cut(process: Any, reason: str) -> float:
    """How many connections the service says it has cut for this reason."""
    text = httpx.get(f"{process.url}/metrics").text
    found = re.search(rf'^distillery_connections_cut_total{{reason="{reason}"}} (\S+)$', text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def dribble(client: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send a piece every tenth of a second until the server answers; what it says until it closes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with selectors.DefaultSelector() as waiting:
        waiting.register(client, selectors.EVENT_READ)
        while not waiting.select(0.1):
            assert time.monotonic() < deadline, "the server listens for ever"
            client.sendall(next(pieces))
    return rest(client)


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (bytes([byte]) for byte in itertools.cycle(data))


@contextlib.contextmanager
def listening(process: Any, job_id: str, *, key: str = "") -> Iterator[socket.socket]:
    """A connection with an open event stream."""
    with connect(process) as client:
        head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        client.sendall((head + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n").encode())
        received = b""
        while b'"seq":1' not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
        yield client


def downloadable(process: Any, make_worker: Any, *, size: int) -> str:
    """A finished job with `student.onnx` of this size; its id."""
    headers = {"Authorization": f"Bearer {KEY}"}
    job_id = str(httpx.post(f"{process.url}/v1/jobs", json=SPEC, headers=headers).json()["id"])
    worker = make_worker(process.database_url, process.folder)
    claim = worker.claim(job_id)
    worker.deliver(claim, "student.onnx", b"\x00" * size)
    worker.database.close()
    return job_id
