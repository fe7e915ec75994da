"""The parent's end: contenders as processes, turns in rotation, and how busy others kept the machine meanwhile."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.contest.task import Task
from engine.environment import ProcessorTime
from worker.process import ALLOCATOR
from worker.waiting import WAITING

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS_PYTHON = REPOSITORY / ".peers" / "bin" / "python"
"""What `make peers` makes."""
FOREIGN_SHARE = 0.05
"""Of the machine's processor time in a turn. A round with a turn in which others took more is flagged."""
_SHOWN = 30


def peers_python() -> str | None:
    """The interpreter that has torchdistill: that of `make peers`, or this one."""
    if PEERS_PYTHON.is_file():
        return str(PEERS_PYTHON)
    return sys.executable if find_spec("torchdistill") is not None else None


def _environment(task: Task) -> dict[str, str]:
    """A peer starts as its users start it, ours (and the floor) as a worker starts its trainers.
    What is set for this process is kept: so every contender can be given the same."""
    theirs = {} if task.contender in ("textbook", "torchdistill") else {**WAITING, "GLIBC_TUNABLES": ALLOCATOR}
    return theirs | dict(os.environ)


@dataclass(frozen=True)
class Turn:
    """What one contender did in one turn, by its own clocks."""

    count: int
    """Images (of the floor: floating-point operations)."""
    wall: float
    cpu: float
    """Seconds of all its threads."""
    foreign: float
    """Share of the machine's processor time that neither the contender nor this process took: other processes, the
    kernel, other guests of the host. 0 where the system does not tell."""
    done: bool = False

    @property
    def per_second(self) -> float:
        return self.count / self.wall

    @property
    def per_cpu_second(self) -> float:
        return self.count / self.cpu


class Contender:
    """A process that trains when it is told to."""

    def __init__(self, task: Task, *, log: Path) -> None:
        self.task, self._log = task, log
        python = peers_python() if task.contender == "torchdistill" else sys.executable
        if python is None:
            raise SystemExit("torchdistill is not there. Run `make peers`, or leave it out: `--peers textbook`.")
        command = [python, "-m", "benchmarks.contest.contender", task.dumped()]
        with log.open("w", encoding="utf-8") as said:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=_environment(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=said, text=True,
            )  # fmt: skip
        self.facts: dict[str, Any] = {}

    def await_ready(self) -> None:
        """Until everything is imported and built."""
        self.facts = self._heard()["ready"]

    def turn(self, *, seconds: float = 0.0, steps: int = 1) -> Turn:
        """Let it train for at least so long and so many steps."""
        before = ProcessorTime.now()
        if self._process.stdin is None:
            raise AssertionError("Opened with a pipe.")
        self._process.stdin.write(json.dumps({"seconds": seconds, "steps": steps}) + "\n")
        self._process.stdin.flush()
        answer = self._heard()
        after = ProcessorTime.now()
        del answer["steps"]
        return Turn(**answer, foreign=_foreign(before, after, theirs=answer["cpu"]))

    def leave(self) -> None:
        """End it, however far it is."""
        with self._process:  # closes the pipes and waits
            self._process.kill()

    def _heard(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise AssertionError("Opened with a pipe.")
        line = self._process.stdout.readline()
        if not line:
            last = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:])
            raise SystemExit(f"The contender '{self.task.contender}' broke off with {self._process.wait()}:\n{last}")
        heard: dict[str, Any] = json.loads(line)
        return heard


def _foreign(before: ProcessorTime, after: ProcessorTime, *, theirs: float) -> float:
    if before.all_busy is None or after.all_busy is None:
        return 0.0
    others = (after.all_busy - before.all_busy) - (after.own - before.own) - theirs
    return max(0.0, others / ((after.wall - before.wall) * (os.cpu_count() or 1)))


Rounds = list[dict[str, Turn]]
"""Of each round, the turn of each contender."""


@contextmanager
def contenders(tasks: Sequence[Task]) -> Iterator[dict[str, Contender]]:
    """All of them, built and waiting; they end with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distillery-contest-")))
        found: dict[str, Contender] = {}
        for number, task in enumerate(tasks):
            contender = Contender(task, log=folder / f"{number}.log")
            stack.callback(contender.leave)
            found[task.contender] = contender
            # One at a time: building two networks at once on two cores saves little, and memory peaks add up.
            contender.await_ready()
        yield found


def warmed_up(running: Mapping[str, Contender], *, seconds: float) -> None:
    """Each at the pace that it keeps: caches filled, kernels chosen."""
    for contender in running.values():
        contender.turn(seconds=seconds, steps=max(1, contender.facts.get("warm_steps", 1)))


def interleaved(running: Mapping[str, Contender], *, rounds: int, seconds: float) -> Iterator[dict[str, Turn]]:
    """A turn of each in every round, in an order that is rotated, and turned around every second time."""
    names = list(running)
    for number in range(rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        if number % 2:
            order.reverse()
        yield {name: running[name].turn(seconds=seconds) for name in order}


def to_the_end(running: Mapping[str, Contender], *, seconds: float) -> dict[str, list[Turn]]:
    """All turns of each, taken in rotation until every job is done."""
    turns: dict[str, list[Turn]] = {name: [] for name in running}
    while waiting := [name for name, taken in turns.items() if not (taken and taken[-1].done)]:
        for name in waiting:
            turns[name].append(running[name].turn(seconds=seconds))
    return turns


def quiet(rounds: Rounds) -> Rounds:
    """Those in which others took no more than `FOREIGN_SHARE` of any turn."""
    return [each for each in rounds if all(turn.foreign <= FOREIGN_SHARE for turn in each.values())]
