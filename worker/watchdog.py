"""Tells a trainer that is frozen from one that is slow."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from worker.messages import Message, PhaseBegan, Progressed

STEPPING = frozenset({"teaching", "assisting", "training", "baseline"})
"""The phases in which progress is told about once a second."""
_QUIET_FACTOR = 12
"""In the other phases a single piece of work (reading a data set, an export, a measurement) may take this many times
longer without a word."""
_STEPS_FACTOR = 10
_REMEMBERED = 101


class Watchdog:
    """Hears every message, and knows for how long there were none.

    Args:
        stall_seconds: the shortest silence in a phase of steps that counts as frozen; ten times the median duration of
            a step, where that is longer.
        clock: seconds that only move forward.
    """

    def __init__(self, *, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._heard_at = clock()
        self._phase = ""
        self._last: tuple[float, int] | None = None
        self._seconds_per_step: deque[float] = deque(maxlen=_REMEMBERED)

    def hear(self, messages: Sequence[Message]) -> None:
        """Take note of what was told just now."""
        if not messages:
            return
        now = self._heard_at = self._clock()
        for message in messages:
            if isinstance(message, PhaseBegan):
                self._phase, self._last = message.phase, None
            elif isinstance(message, Progressed):
                if self._last is not None and message.step > self._last[1]:
                    self._seconds_per_step.append((now - self._last[0]) / (message.step - self._last[1]))
                self._last = now, message.step

    @property
    def limit_seconds(self) -> float:
        """The silence that is too long, now."""
        if self._phase not in STEPPING:
            return self._stall_seconds * _QUIET_FACTOR
        usual = median(self._seconds_per_step) if self._seconds_per_step else 0.0
        return max(self._stall_seconds, _STEPS_FACTOR * usual)

    def frozen_for(self) -> float | None:
        """Seconds of silence when it is too long, else None."""
        silent = self._clock() - self._heard_at
        return silent if silent > self.limit_seconds else None
