"""The API as a server that no slow client can hold up.

    python -m app.serve [--host 127.0.0.1] [--port 8000]

Deadlines and limits come from the environment, see `app.bounds`. SIGTERM: event streams are closed at once, running
requests get DISTILLERY_STOP_SECONDS to end, and the exit code is 0.
"""

import argparse
import gc
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from app.bounds import Bounds
from app.main import create_app
from app.sockets import Gate
from distillery.errors import DistilleryError, InvalidRequest

_SWITCH_SECONDS = 0.001
"""For so long the thread that takes requests may wait for one that works on another; a fifth of the usual."""


class GuardedServer(uvicorn.Server):
    """uvicorn, with a gate before it. Ends without the signal that ended it, so that a stop is no failure."""

    def __init__(self, config: uvicorn.Config, *, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._gate.sweep()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal stop the server, and forget it when that is done."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def make_server(app: ASGIApp, *, bounds: Bounds, cut: Callable[[str], None], **options: Any) -> GuardedServer:
    """A server for `app` that is not started yet.

    Args:
        cut: called with the reason whenever a connection is closed against its client's will.
        options: more of uvicorn's.
    """
    gate = Gate(bounds, cut=cut)
    protocol: Any = gate.protocol  # uvicorn only calls it, as it would call a class
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        timeout_keep_alive=math.ceil(bounds.keep_alive_seconds),
        timeout_graceful_shutdown=math.ceil(bounds.stop_seconds),
        **options,
    )
    return GuardedServer(config, gate=gate)


def listen(host: str, port: int, *, unread_seconds: float) -> socket.socket:
    """A listening socket; what it accepts is given up by the kernel, too, when nothing sent is taken for so long.

    Raises:
        InvalidRequest: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]  # without the address, which is told already
        raise InvalidRequest(
            f"The service cannot listen on {host}:{port}: {why}.",
            hint="Choose another --port (0 takes a free one), or stop what is listening there.",
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of Linux; accepted sockets inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(unread_seconds * 1000))
    return listener


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; 2 when the environment or the address cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m app.serve", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        bounds = Bounds.from_environment()
        app = create_app(bounds=bounds)
        listener = listen(options.host, options.port, unread_seconds=bounds.unread_seconds)
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with listener:
        host, port = listener.getsockname()[:2]
        server = make_server(app, bounds=bounds, cut=app.state.meter.cut)
        logging.getLogger("uvicorn.error").info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        _prepare_interpreter()
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _prepare_interpreter() -> None:
    """Keep the interpreter from holding requests up; `benchmarks.api_load` shows what it is worth."""
    gc.collect()
    gc.freeze()  # what is here by now stays, and need not be looked through again and again
    sys.setswitchinterval(_SWITCH_SECONDS)


def _leave(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)  # until the server takes over
    sys.exit(main())
