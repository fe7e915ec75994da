"""The Celery worker with the options it must have: one process for one device, no chatter between workers.

    python -m worker.serve [--queues default,light]

SIGTERM: the running job is saved and released, and the exit code is 0.
"""

import argparse
import os
import sys

from distillery.errors import DistilleryError
from worker.queue import DEFAULT_QUEUE


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to leave; 2 when the environment cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m worker.serve", description="Run jobs that Redis hints at.")
    parser.add_argument("--queues", default=os.environ.get("DISTILLERY_QUEUES", DEFAULT_QUEUE), help="comma list")
    options = parser.parse_args(arguments)
    from worker.tasks import make_app

    try:
        app = make_app()
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    app.worker_main(worker_options(queues=options.queues))
    return 0


def worker_options(*, queues: str) -> list[str]:
    """The command line for Celery. The node's name holds the process id: several workers may share a machine."""
    name = f"distillery-{os.getpid()}@%h"
    pool = ["--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle"]
    return ["worker", *pool, f"--queues={queues}", f"--hostname={name}", "--loglevel=INFO"]


if __name__ == "__main__":
    sys.exit(main())
