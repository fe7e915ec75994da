"""The process that answers predictions.

    python -m worker.inference

Reads the environment of every part of the service, and the variables of `worker.inference.settings`. It needs no
broker. SIGTERM: it withdraws, answers what it has taken, and the exit code is 0.
"""

import gc
import logging
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from distillery.errors import DistilleryError, InvalidRequest
from distillery.ids import new_id
from store.artifacts import Artifacts
from store.config import StoreConfig
from store.db import Database
from store.inference import InferenceWorker
from worker import workplace
from worker.inference.http import make_app, running
from worker.inference.presence import Presence
from worker.inference.service import Service
from worker.inference.settings import InferenceConfig
from worker.waiting import wait_patiently

STOP_SECONDS = 10
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)
_log = logging.getLogger("worker.inference")


class LeavingServer(uvicorn.Server):
    """uvicorn, which withdraws before it stops listening, and ends without the signal that ended it."""

    def __init__(self, config: uvicorn.Config, presence: Presence) -> None:
        super().__init__(config)
        self._presence = presence

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave."""
        await self._presence.leave()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal stop the server, and forget it when that is done."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def main() -> int:
    """Serve until told to leave; 2 when the environment or the address cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # Threads of idle networks must not spin on the cores that the API and the trainings need.
    wait_patiently()
    try:
        store, config = StoreConfig.from_environment(), InferenceConfig.from_environment()
        database, artifacts = Database(store.database_url), Artifacts(store.artifacts_url)
        listener = _listen(config)
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with listener:
        return _serve(config, database, artifacts, listener)


def _serve(config: InferenceConfig, database: Database, artifacts: Artifacts, listener: socket.socket) -> int:
    url = f"http://{_bracketed(_reachable(config))}:{listener.getsockname()[1]}"
    worker = InferenceWorker(new_id("inf"), url, secrets.token_urlsafe(32))
    presence = Presence(
        database, worker, heartbeat_seconds=config.heartbeat_seconds, alive_seconds=config.alive_seconds
    )
    with workplace.folder(workplace.root(), claim_id=worker.id, attempt=0) as folder:
        service = Service(config, artifacts, folder)

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with running(service), presence.told():
                _log.info("%s answers predictions at %s.", worker.id, url)
                yield

        app = make_app(service, token=worker.token, requests=config.requests, lifespan=lifespan)
        options = uvicorn.Config(
            app, ws="none", lifespan="on", access_log=False, log_config=None, timeout_graceful_shutdown=STOP_SECONDS
        )
        server = LeavingServer(options, presence)
        gc.freeze()
        server.run(sockets=[listener])
    database.close()
    return 0 if server.started else 1


def _listen(config: InferenceConfig) -> socket.socket:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise InvalidRequest(
            f"The inference worker cannot listen on {config.host}:{config.port}: {error.strerror}.",
            hint="Choose another DISTILLERY_INFERENCE_HOST and DISTILLERY_INFERENCE_PORT (0 takes a free one).",
        ) from None
    # Accepted sockets inherit it. An answer is its head and its body, and the body would wait 40 ms for the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _reachable(config: InferenceConfig) -> str:
    """The host by which the API finds this process: inside a container, the container's own address."""
    if config.address:
        return config.address
    return socket.gethostbyname(socket.gethostname()) if config.host in _EVERYWHERE else config.host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _leave(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)  # until the server takes over
    sys.exit(main())
