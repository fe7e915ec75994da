"""The child process that computes: started apart, heard through a pipe, stopped gently and then not.

It gets a session of its own, dies with the supervisor, and is given none of the service's secrets.
"""

import contextlib
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.waiting import WAITING

_TETHER = Path(__file__).with_name("tether.py")
_SECRETS = re.compile(
    r"^DISTILLERY_(DATABASE_URL|REDIS_URL|ARTIFACTS|API_KEY)|^(AWS|AZURE|GOOGLE|GCS|PG|CELERY)_?"
    r"|PASSWORD|SECRET|TOKEN(?!IZER)|CREDENTIAL|API_?KEY",
    re.IGNORECASE,
)
ALLOCATOR = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296"
"""Left alone, the allocator gives the memory of a step's activations back to the system and faults it in again, some
5,000 pages a step: 2 to 5 % of the pace of a long training of small networks, more of a short one or of larger images.
Peaks grow by up to a seventh."""
_MOST_LINES_WAITING = 10_000
_EXIT_SECONDS = 10.0
_PIPE_SECONDS = 2.0
_TAIL_BYTES = 2_000


def environment(given: Mapping[str, str], *, scratch: Path) -> dict[str, str]:
    """What the child may see of our environment: no addresses or keys of the service; temporary files in `scratch`."""
    kept = {name: value for name, value in given.items() if not _SECRETS.search(name)}
    return kept | {
        **WAITING,
        "GLIBC_TUNABLES": given.get("GLIBC_TUNABLES", ALLOCATOR),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
    }


class Child:
    """A running command. The thread that makes it must live as long as it: the kernel ties the child to that thread.

    Args:
        command: program and arguments; the program by its full path.
        folder: where it may keep temporary files.
        log: file that takes its stdout and stderr.
        tells: whether it takes `--events-fd N` and writes a line for each message there.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, log: Path, tells: bool = True) -> None:
        scratch = folder / "tmp"
        scratch.mkdir(exist_ok=True)
        reading, writing = os.pipe()
        given = [*command, "--events-fd", str(writing)] if tells else list(command)
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the command is our own; no shell
                    [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *given],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment(os.environ, scratch=scratch),
                    pass_fds=(writing,),
                    start_new_session=True,
                )
        except BaseException:  # a stop in the middle of the start too: nobody else would close this end; it goes on
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._exited = os.pidfd_open(self._process.pid)
        self._deadline: float | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES_WAITING)
        self.ended = False
        threading.Thread(target=self._listen, args=(reading,), name="trainer-messages", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id, which is also the group's."""
        return self._process.pid

    def read(self, *, timeout: float) -> list[bytes]:
        """Whole lines in order: all that wait, or those that come first within `timeout` seconds, or none.

        After the last one `ended` is true.
        """
        lines: list[bytes] = []
        try:
            line = self._lines.get(timeout=timeout)
            while line is not None:
                lines.append(line)
                line = self._lines.get_nowait()
        except queue.Empty:
            if not lines and self.exits(within=0):
                self._signal_group()  # a grandchild that still holds the pipe would keep us waiting
        else:
            self.ended = True
        return lines

    def ask_to_stop(self, *, grace_seconds: float) -> None:
        """SIGTERM, once, to the leader alone (its own children must live while it saves); then see `overdue`."""
        if self._deadline is None:
            self._deadline = time.monotonic() + grace_seconds
            if self._process.returncode is None:
                signal.pidfd_send_signal(self._exited, signal.SIGTERM)

    @property
    def overdue(self) -> bool:
        """Whether it was asked to stop and its time to do so is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def ask_for_stacks(self) -> None:
        """Have the leader write the stacks of its threads to the log, which works in a deadlock, and wake it if it is
        stopped."""
        if self._process.returncode is None:
            signal.pidfd_send_signal(self._exited, signal.SIGUSR1)
            signal.pidfd_send_signal(self._exited, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        self._signal_group()

    def close(self) -> int:
        """Take the exit code (negative: the signal that ended it); what is left of the group is killed."""
        if self._process.returncode is None:
            # A leader without a pipe has nothing more to do; one that was not read to the end is not wanted any more.
            if self.ended:
                self.exits(within=_EXIT_SECONDS)
            self._signal_group()
            self._process.wait()
            os.close(self._exited)
            self._let_the_listener_go()
        return self._process.returncode

    def _listen(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as pipe:
            for line in pipe:
                if line.endswith(b"\n"):  # the last one may be cut short by a kill
                    self._lines.put(line)
        self._lines.put(None)

    def _let_the_listener_go(self) -> None:
        """Drop what was not read, so that the listener is never stuck behind a full queue."""
        until = time.monotonic() + _PIPE_SECONDS
        while not self.ended and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                self.ended = self._lines.get(timeout=0.1) is None

    def exits(self, *, within: float) -> bool:
        """Whether it has ended, or does within so many seconds."""
        return bool(select.select([self._exited], [], [], within)[0])

    def _signal_group(self) -> None:
        """Kill the group. Its number cannot belong to others: the leader is not reaped before `close` has come here."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def tail(log: Path) -> str:
    """The last lines of a log, at most 2,000 bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
