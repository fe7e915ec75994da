"""Rules of the gate that no route of ours shows yet, on a bare application."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from tests.app.raw_http import (
    connect,
    dribble,
    refused,
    rest,
)


@pytest.fixture
def guarded() -> Callable[..., Any]:
    """Serves a bare ASGI application behind the gate, in a thread; gives where it listens and what it has cut."""
    from app.bounds import Bounds

    return lambda app, **bounds: serving_guarded(app, Bounds(**bounds))


@contextlib.contextmanager
def serving_guarded(app: Any, bounds: Any) -> Iterator[Any]:
    import threading
    from types import SimpleNamespace

    from app.serve import listen, make_server

    reasons: list[str] = []
    server = make_server(app, bounds=bounds, cut=reasons.append, log_config=None, loop="asyncio")
    listener = listen("127.0.0.1", 0, unread_seconds=bounds.unread_seconds)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", reasons=reasons)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


async def lifespan(receive: Any, send: Any) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


async def swallow(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body of any size, and tells how much came."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message["body"])
        more = message["more_body"]
    body = json.dumps(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    return await send({"type": "http.response.body", "body": body})


async def chatter(scope: Any, receive: Any, send: Any) -> None:
    """An event stream without end."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    answer = StreamingResponse(itertools.repeat(b": chatter\n\n" * 10_000), media_type="text/event-stream")
    return await answer(scope, receive, send)


def test_a_long_upload_must_keep_up_its_rate(guarded: Any) -> None:
    upload = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    with guarded(swallow, body_seconds=3.0) as server:
        with connect(server) as client:
            client.sendall(upload)
            problem = refused(dribble(client, itertools.repeat(b"x" * 1000)), 408, "TIMEOUT")
        assert "fewer than 65536 a second" in problem.detail
        assert server.reasons == ["slow_body"]


def test_a_steady_upload_may_take_longer_than_the_first_deadline(guarded: Any) -> None:
    pieces, piece = 40, b"x" * 20_000
    with guarded(swallow, body_seconds=1.0) as server, connect(server) as client:
        client.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 800000\r\n\r\n")
        for _ in range(pieces):
            client.sendall(piece)
            time.sleep(0.1)  # the pace is what is tested
        assert rest(client).endswith(b"800000")
        assert server.reasons == []


def test_a_client_that_does_not_read_an_event_stream_is_cut_off(guarded: Any, wait_until: Any) -> None:
    with guarded(chatter, unread_seconds=1.0) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "unread" in server.reasons)
        assert rest(client).startswith(b"HTTP/1.1 200")
