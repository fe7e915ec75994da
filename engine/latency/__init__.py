"""Student against teacher by the stopwatch, in a way that a doubter can check."""

from engine.latency.compare import Contestant, compare, repeat_command

__all__ = ["Contestant", "compare", "repeat_command"]
