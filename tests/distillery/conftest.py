"""A peer that speaks real HTTP over a real socket and answers as a test tells it: in fragments, late, or wrongly."""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from distillery.spec import parse, resolve
from distillery.views import Artifact, Event, Job, Links

JOB_ID = "job_" + "0" * 26
SPEC = {
    "name": "a study",
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "train": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def says(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
) -> Answer:
    """A whole answer: bytes, text, or anything that becomes JSON."""
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        value = (value.model_dump_json() if hasattr(value, "model_dump_json") else json.dumps(value)).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, text in ({"Content-Type": kind, "Content-Length": str(len(value))} | (headers or {})).items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(value)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """No answer at all: the connection is cut."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def breaks_off(body: bytes, *, status: int, after: int, headers: dict[str, str]) -> Answer:
    """An answer that announces its whole length and is cut after some bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, text in (headers | {"Content-Length": str(len(body))}).items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        hangs_up(handler)

    return answer


def problem(status: int, code: str, detail: str, *, errors: tuple[dict[str, str], ...] = (), **headers: str) -> Answer:
    """A problem document."""
    body = {"type": "urn:x", "title": "No", "status": status, "detail": detail, "code": code, "errors": list(errors)}
    return says(body, status=status, kind="application/problem+json", headers=headers)


def streams(*seqs: int, end: bool) -> Answer:
    """Server-sent events with these numbers, with or without the end mark."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b": the events of a job\nretry: 2000\n\n")
        for seq in seqs:
            handler.wfile.write(f"id: {seq}\ndata: {event(seq).model_dump_json()}\n\n".encode())
            handler.wfile.write(b": still there\n\n")
        if end:
            handler.wfile.write(b'event: end\ndata: {"status": "succeeded"}\n\n')
        handler.wfile.flush()
        hangs_up(handler)

    return answer


def event(seq: int) -> Event:
    """An event with this number."""
    return Event(seq=seq, type="phase", at=NOW, attempt=1, message=f"event {seq}")


def job(**changes: Any) -> Job:
    """A job as the service shows it."""
    spec = parse(SPEC)
    links = dict.fromkeys(Links.model_fields, "/v1/jobs")
    return Job(
        **{"id": JOB_ID, "name": "a study", "status": "running", "spec": spec, "resolved_spec": resolve(spec)}
        | {"created_at": NOW, "links": Links(**links)}
        | changes
    )


def artifact(content: bytes, *, name: str = "student.safetensors") -> Artifact:
    """A delivered file as its list shows it."""
    sha256 = hashlib.sha256(content).hexdigest()
    return Artifact(
        name=name, media_type="application/octet-stream", size_bytes=len(content), sha256=sha256, created_at=NOW, url=""
    )


@dataclass
class Peer:
    """Answers the requests in the order of its script; the last answer holds for all that follow."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    # What a script is made of; test files cannot import this one.
    says = staticmethod(says)
    problem = staticmethod(problem)
    streams = staticmethod(streams)
    breaks_off = staticmethod(breaks_off)
    hangs_up = staticmethod(hangs_up)
    job = staticmethod(job)
    artifact = staticmethod(artifact)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.seen.append(Seen(handler.command, handler.path, headers, body))
        self.script[min(len(self.seen), len(self.script)) - 1](handler)


def serve(peer: Peer, *, port: int = 0) -> ThreadingHTTPServer:
    """Start answering on a thread; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            peer.answer(self)

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  (http.server's names)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Clients that hang up are part of the tests."""

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A peer on a free port of the loopback interface."""
    peer = Peer()
    server = serve(peer)
    yield peer
    server.shutdown()
    server.server_close()


@pytest.fixture
def serving() -> Iterator[Callable[[Peer, int], Callable[[], None]]]:
    """`serving(peer, port)` starts a peer on that port and gives the function that stops it."""
    servers: list[ThreadingHTTPServer] = []

    def start(peer: Peer, port: int) -> Callable[[], None]:
        server = serve(peer, port=port)
        servers.append(server)

        def stop() -> None:
            servers.remove(server)
            server.shutdown()
            server.server_close()

        return stop

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
