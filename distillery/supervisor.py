"""Keep a few commands running: started again when they die, stopped in order, and never left behind as orphans.

Everything happens on the main thread, which sleeps until a signal arrives or something is due.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""Who has lived so long before it died is started again at once, or nearly."""
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WATCHED = STOP_SIGNALS | {signal.SIGCHLD}
_LOG_BYTES = 10_000_000
_TAIL_BYTES = 4_000
_PR_SET_PDEATHSIG = 1


@dataclass
class Signals:
    """Signals as something one can wait for with a deadline. Use it as a context manager on the main thread."""

    _reading: int = field(init=False)
    _writing: int = field(init=False)
    _restore: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False)

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._restore.callback(os.close, self._writing)
        self._restore.callback(os.close, self._reading)
        self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._writing))
        for number in _WATCHED:
            # A handler that does nothing: the number comes through the pipe, and a child's exec resets it.
            self._restore.callback(signal.signal, number, signal.signal(number, lambda _number, _frame: None))
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def wait(self, seconds: float) -> set[signal.Signals]:
        """The signals that arrived, at the latest after so many seconds; empty when there were none."""
        ready, _, _ = select.select([self._reading], [], [], max(0.0, seconds))
        return {signal.Signals(number) for number in os.read(self._reading, 1024)} if ready else set()


@dataclass
class Child:
    """One command that is to be running, and how often it died lately."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    grace_seconds: float
    """How long it may take to leave after SIGTERM."""
    clock: Callable[[], float] = time.monotonic
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    failures: int = field(default=0, init=False)
    due: float = field(default=0.0, init=False)
    _started: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Run the command in a session of its own, so that Ctrl-C reaches the parent alone; it writes to a log."""
        self._turn_log()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603  (our own command, no shell)
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=tie_to_this_process(),
            )
        self._started = self.clock()

    def look(self) -> int | None:
        """The exit code, once, when the process has died by itself; it is then due to be started again."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        now = self.clock()
        self.failures = 1 if now - self._started >= STEADY_SECONDS else self.failures + 1
        self.due = now + self.pause_seconds
        return code

    @property
    def pause_seconds(self) -> float:
        """Seconds between the last death and the next start."""
        return float(min(FIRST_PAUSE_SECONDS * 2 ** (self.failures - 1), LONGEST_PAUSE_SECONDS))

    def tail(self) -> str:
        """The last lines of the log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()

    def _turn_log(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_BYTES:
                self.log.replace(self.log.with_name(f"{self.log.name}.1"))


@dataclass
class Supervisor:
    """Children in the order in which they are started; they are stopped in the opposite one, one after the other."""

    signals: Signals
    say: Callable[[str], None]
    children: list[Child] = field(default_factory=list)

    def start(self, child: Child) -> None:
        """Run one more child."""
        child.start()
        self.children.append(child)

    def until(self, done: Callable[[], bool], *, every_seconds: float) -> bool:
        """Keep the children running until `done`, asked now and then; False when a stop signal came first."""
        while not done():
            arrived = self.signals.wait(min(every_seconds, self._next_start()))
            if arrived & STOP_SIGNALS:
                return False
            self._revive()
        return True

    def _next_start(self) -> float:
        waiting = [child.due - child.clock() for child in self.children if child.process is None]
        return min(waiting, default=LONGEST_PAUSE_SECONDS)

    def _revive(self) -> None:
        for child in self.children:
            if (code := child.look()) is not None:
                self.say(
                    f"{child.name} ended with code {code}; it is started again in {child.pause_seconds:.0f} s. "
                    f"Its log: {child.log}"
                )
            if child.process is None and child.clock() >= child.due:
                child.start()

    def stop(self) -> None:
        """SIGTERM to each, its time to leave, then SIGKILL to what is left. A further stop signal ends the waiting."""
        hurried = False
        while self.children:
            child = self.children.pop()
            if child.process is None:
                continue
            child.process.terminate()
            deadline = child.clock() + child.grace_seconds
            while child.process.poll() is None and not hurried and child.clock() < deadline:
                hurried = bool(self.signals.wait(deadline - child.clock()) & STOP_SIGNALS)
            if child.process.poll() is None:
                self.say(f"{child.name} does not leave and is killed.")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


@contextlib.contextmanager
def supervisor(*, say: Callable[[str], None]) -> Iterator[Supervisor]:
    """A supervisor whose children are gone when the block ends, however it ends."""
    with Signals() as signals:
        held = Supervisor(signals, say)
        try:
            yield held
        finally:
            held.stop()


def tie_to_this_process() -> Callable[[], None]:
    """A `preexec_fn` that asks the kernel for SIGTERM when this process dies, so that a worker still saves its job.

    Only for processes with one thread: it runs between fork and exec.
    """
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def tie() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return tie
