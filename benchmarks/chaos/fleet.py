"""Worker processes that are started again whenever they die, and what runs below them: whom a fault can meet."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

import worker

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = REPOSITORY / "tests" / "worker" / "tiny_trainer.py"
_SCRIPTS = {"celery": "celery_with_tiny_trainer.py", "embedded": "embedded_with_tiny_trainer.py"}
_TETHER = Path(worker.__file__).with_name("tether.py")
_CLAIMED = re.compile(r"/(job_[0-9a-z]+)-a([0-9]+)/job\.json$")
_FAREWELL_SECONDS = 40.0

Role = Literal["worker", "pool process", "trainer"]


@dataclass(frozen=True)
class Victim:
    """A process that a fault may meet, and the job and attempt that it works at, if it does."""

    role: Role
    process: psutil.Process
    work: tuple[str, int] | None


@dataclass
class _Slot:
    script: str
    log: Path
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Fleet:
    """So many workers of each kind, with this environment; what they say is kept below `folder`."""

    environment: Mapping[str, str]
    folder: Path
    celery: int
    embedded: int
    starts: int = 0
    embedded_pids: set[int] = field(default_factory=set)
    _slots: list[_Slot] = field(default_factory=list)

    def __enter__(self) -> "Fleet":
        kinds = ["celery"] * self.celery + ["embedded"] * self.embedded
        self._slots = [_Slot(_SCRIPTS[kind], self.folder / f"{kind}-{place}.log") for place, kind in enumerate(kinds)]
        self.tend()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask all to leave, which they do within the save budget; what is left then is killed."""
        living = [slot.process for slot in self._slots if slot.process is not None]
        for process in living:
            _signal_group(process.pid, signal.SIGCONT)
            process.terminate()
        for process in living:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_FAREWELL_SECONDS)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()

    def tend(self) -> None:
        """Start again what has died, as a service manager would."""
        for slot in self._slots:
            if slot.process is None or slot.process.poll() is not None:
                slot.process = self._start(slot)

    def _start(self, slot: _Slot) -> subprocess.Popen[bytes]:
        # Tied to this process: a run that is itself killed leaves no workers behind.
        tied = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
        command = [*tied, sys.executable, str(TRAINER.with_name(slot.script))]
        with slot.log.open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self.starts += 1
        if slot.script == _SCRIPTS["embedded"]:
            self.embedded_pids.add(process.pid)
        return process

    def victims(self) -> list[Victim]:
        """Every process that runs now."""
        found: list[Victim] = []
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += _tree(psutil.Process(slot.process.pid), pooled=slot.script == _SCRIPTS["celery"])
        return found

    def said(self, words: str) -> int:
        """How many lines of all logs hold these words."""
        return sum(words in line for slot in self._slots for line in _lines(slot.log))


def _tree(main: psutil.Process, *, pooled: bool) -> Iterator[Victim]:
    """A worker and what runs below it; of Celery's, what hangs on the main process is the pool's."""
    below = [(each, _claimed(each)) for each in main.children(recursive=True)]
    work = next((claimed for _, claimed in below if claimed), None)
    yield Victim("worker", main, work)
    for process, _ in below:
        yield Victim("pool process" if pooled and process.ppid() == main.pid else "trainer", process, work)


def _claimed(process: psutil.Process) -> tuple[str, int] | None:
    """Job and attempt of a trainer; None of any other process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for argument in process.cmdline():
            if match := _CLAIMED.search(argument):
                return match[1], int(match[2])
    return None


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
