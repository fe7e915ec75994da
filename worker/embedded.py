"""The worker without a broker: it asks the database for work.

    python -m worker.embedded

Reads the same environment as every part of the service. SIGTERM or SIGINT: the running job is saved and released, and
the exit code is 0.
"""

import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

from distillery.errors import DistilleryError
from store.artifacts import Artifacts
from store.config import LeaseConfig, StoreConfig
from store.db import Database
from worker.attempt import DEFAULT_PROGRAMS, Programs, run_one
from worker.maintenance import Maintenance
from worker.queue import DEFAULT_QUEUE

_POLL_SECONDS = 0.2
_AWAY_SECONDS = 2.0
_log = logging.getLogger(__name__)


def main() -> int:
    """Serve until told to leave; 2 when the environment cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    stop = _stop_on_signals()
    try:
        serve(stop)
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def serve(stop: threading.Event, *, programs: Programs = DEFAULT_PROGRAMS) -> None:
    """Run jobs one after the other until `stop` is set. The queues stand in DISTILLERY_QUEUES, separated by commas.

    Raises:
        InvalidRequest: the environment does not say where the database or the artifacts are.
    """
    config, lease = StoreConfig.from_environment(), LeaseConfig.from_environment()
    queues = tuple(os.environ.get("DISTILLERY_QUEUES", DEFAULT_QUEUE).split(","))
    database, artifacts = Database(config.database_url), Artifacts(config.artifacts_url)
    maintenance = Maintenance(database, artifacts, lease, redis_url=config.redis_url)
    maintenance.start()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    _log.info("%s takes jobs of the queues %s.", worker, ", ".join(queues))
    try:
        while not stop.is_set():
            try:
                busy = run_one(
                    database, artifacts, worker=worker, queues=queues, lease=lease, stop=stop, programs=programs
                )
            except DistilleryError as error:
                _log.warning("No work can be claimed. %s", error)
                stop.wait(_AWAY_SECONDS)
            else:
                if not busy:
                    stop.wait(_POLL_SECONDS)
    finally:
        maintenance.stop()
        database.close()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


if __name__ == "__main__":
    sys.exit(main())
