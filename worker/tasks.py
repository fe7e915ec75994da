"""The Celery side of a worker: a hint arrives, the database says what to do.

    python -m worker.serve            (or: celery -A worker.tasks worker --pool=prefork -c 1 ...)

Celery hears SIGTERM in its main process while the job runs in the pool's; one shared byte carries the word across.
"""

import contextlib
import logging
import mmap
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from celery import Celery, signals

from distillery.errors import DistilleryError, InvalidRequest
from store.artifacts import Artifacts
from store.config import LeaseConfig, StoreConfig
from store.db import Database
from worker.attempt import DEFAULT_PROGRAMS, Programs, run_one
from worker.maintenance import Maintenance
from worker.queue import TASK, celery_app

_log = logging.getLogger(__name__)


class SharedFlag:
    """A byte that a process shares with those it forks later on; it can only be raised."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Raise it, here and in every forked process."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Whether anyone raised it."""
        return bool(self._byte[0])


@dataclass
class EitherStop:
    """Set when the worker is shutting down, or when this very process was told to end."""

    shutting_down: SharedFlag
    told: threading.Event = field(default_factory=threading.Event)

    def is_set(self) -> bool:
        """Whether either is."""
        return self.shutting_down.is_set() or self.told.is_set()


@dataclass
class Service:
    """The worker's side of the store. Connections are made in the process that uses them, after any fork."""

    config: StoreConfig
    lease: LeaseConfig
    programs: Programs
    shutting_down: SharedFlag = field(default_factory=SharedFlag)
    maintenance: Maintenance | None = None
    main_process: int = field(default_factory=os.getpid)
    _opened: dict[int, tuple[Database, Artifacts]] = field(default_factory=dict)

    def opened(self) -> tuple[Database, Artifacts]:
        """The database and the artifacts of this process."""
        process = os.getpid()
        if process not in self._opened:  # those of the parent stay referenced: closing them here would close them there
            self._opened[process] = (Database(self.config.database_url), Artifacts(self.config.artifacts_url))
        return self._opened[process]

    def distil(self, queues: tuple[str, ...]) -> None:
        """Claim and run the waiting job of highest priority, if there is one."""
        database, artifacts = self.opened()
        stop = EitherStop(self.shutting_down)
        # With the pool `solo` this is Celery's main process, whose own handler of SIGTERM does the right thing.
        in_pool = os.getpid() != self.main_process
        with _told_by_sigterm(stop.told) if in_pool else contextlib.nullcontext(), _logged():
            run_one(
                database,
                artifacts,
                worker=f"{socket.gethostname()}:{os.getpid()}",
                queues=queues,
                lease=self.lease,
                stop=stop,
                programs=self.programs,
            )

    def begin_maintenance(self) -> None:
        """Start it, once."""
        if self.maintenance is None:
            database, artifacts = self.opened()
            self.maintenance = Maintenance(database, artifacts, self.lease, redis_url=self.config.redis_url)
            self.maintenance.start()

    def end_maintenance(self) -> None:
        """Stop it, if it runs."""
        if self.maintenance is not None:
            self.maintenance.stop()


def make_app(*, programs: Programs = DEFAULT_PROGRAMS) -> Celery:
    """The workers' app, with its task and signals, configured from the environment.

    Raises:
        InvalidRequest: the environment does not say where the database, the artifacts or Redis are.
    """
    config = StoreConfig.from_environment()
    if config.redis_url is None:
        raise InvalidRequest(
            "DISTILLERY_REDIS_URL is not set, and a Celery worker needs a broker.",
            hint="Set it, for instance to redis://127.0.0.1:6379/0, or start `python -m worker.embedded`.",
        )
    app = celery_app(config.redis_url)
    service = Service(config, LeaseConfig.from_environment(), programs)

    def distil(job_id: str) -> None:
        # The hint says that there is work, not which: Redis hands hints out in their order, the row knows priorities.
        service.distil(tuple(app.amqp.queues.consume_from))

    app.task(name=TASK)(distil)
    _connect(service)
    return app


def _connect(service: Service) -> None:
    def shutting_down(**_: Any) -> None:
        service.shutting_down.set()

    def ready(**_: Any) -> None:
        service.begin_maintenance()

    def shutdown(**_: Any) -> None:
        service.end_maintenance()

    signals.worker_shutting_down.connect(shutting_down, weak=False)
    # In the pool's process, never in the one that forks it: what talks to the artifact store has threads that no fork
    # takes along, and a pool process forked after its first word would wait for them for ever.
    signals.worker_process_init.connect(ready, weak=False)
    signals.worker_process_shutdown.connect(shutdown, weak=False)
    signals.worker_shutdown.connect(shutdown, weak=False)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """A hint that finds the database away is dropped: the row is hinted at again."""
    try:
        yield
    except DistilleryError as error:
        _log.warning("No work can be claimed. %s", error)


@contextlib.contextmanager
def _told_by_sigterm(told: threading.Event) -> Iterator[None]:
    """In a pool process SIGTERM would cut the attempt short, and some service managers send it to every process."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def __getattr__(name: str) -> Any:
    """`celery -A worker.tasks` asks for `app`; it is made then and not at import."""
    if name == "app":
        globals()["app"] = app = make_app()
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
