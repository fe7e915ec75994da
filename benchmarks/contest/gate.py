"""The contender's end of taking turns: it trains while its turn lasts and waits, inside its own loop, for the next.

Lines of JSON: the contender says that it is ready, is told `{"seconds": s, "steps": n}`, and answers with what it did
in at least so long and at least so many steps. The end of the input ends the process.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


class Gate:
    """Let through after each step; holds the loop when the turn is over."""

    def __init__(self, *, asked: TextIO, told: TextIO, synchronise: Callable[[], None] = lambda: None) -> None:
        self._asked, self._told, self._synchronise = asked, told, synchronise
        self._count = self._steps = 0
        self._wanted: dict[str, float] = {}
        self._began = self._cpu_began = 0.0

    def ready(self, **facts: Any) -> None:
        """Everything is imported and built; training starts when this returns."""
        self._say({"ready": facts})
        self._await_turn()

    def step(self, count: int) -> None:
        """One step of the optimizer is done, on `count` images (or whatever a turn counts)."""
        self._count += count
        self._steps += 1
        lasted = time.perf_counter() - self._began
        if lasted >= self._wanted["seconds"] and self._steps >= self._wanted["steps"]:
            self._close(done=False)
            self._await_turn()

    def finished(self) -> None:
        """The whole job is done; nothing follows."""
        self._close(done=True)

    def _await_turn(self) -> None:
        line = self._asked.readline()
        if not line:
            sys.exit(0)
        self._wanted = json.loads(line)
        self._count = self._steps = 0
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def _close(self, *, done: bool) -> None:
        self._synchronise()
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        self._say({"count": self._count, "steps": self._steps, "wall": wall, "cpu": cpu, "done": done})

    def _say(self, values: dict[str, Any]) -> None:
        self._told.write(json.dumps(values) + "\n")
        self._told.flush()
