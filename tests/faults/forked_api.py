"""`app.serve`, loaded once and forked for each line on standard input: the API, killed and started again, in no time.

    python -m tests.faults.forked_api PORT

Each line kills the one that runs (SIGKILL) and starts the next; the end of the input ends all.
"""

import os
import signal
import sys

from app import serve


def start(port: str) -> int:
    """The process id of a new API."""
    child = os.fork()
    if child == 0:
        os._exit(serve.main(["--port", port]))
    return child


def main() -> None:
    """Serve until the input ends."""
    running = 0
    for _ in sys.stdin:
        if running:
            os.kill(running, signal.SIGKILL)
            os.waitpid(running, 0)
        running = start(sys.argv[1])
        sys.stdout.write(f"{running}\n")
        sys.stdout.flush()
    if running:
        os.kill(running, signal.SIGKILL)
        os.waitpid(running, 0)


if __name__ == "__main__":
    main()
