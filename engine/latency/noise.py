"""Signs that the machine was not quiet while something was measured: each is told, and none is hidden in a figure."""

import os
from collections.abc import Iterator, Mapping, Sequence
from statistics import median, quantiles

import torch

from distillery.report import Estimated, Noise
from engine.environment import ProcessorTime, others_busy
from engine.latency.throttling import throttled

BUSY_CORES = 0.25
WIDE_CONTROL = 1.1
WIDE_SPREAD = 0.25
"""Interquartile range over median of a contestant's calls."""
DRIFT = 0.05
"""Between the first and the last third of the rounds."""
_DRIFT_ROUNDS = 9
SHARED_GPU_BYTES = 2 * 2**30


def spread(seconds: Sequence[float]) -> float:
    """Interquartile range over median."""
    if len(seconds) < 2:
        return 0.0
    lower, middle, upper = quantiles(seconds, n=4, method="inclusive")
    return (upper - lower) / middle if middle else 0.0


def of_calls(calls: Mapping[str, Sequence[float]]) -> Iterator[Noise]:
    """Calls of one contestant that differ too much among themselves. `calls` are seconds by contestant."""
    for name, seconds in calls.items():
        if (wide := spread(seconds)) > WIDE_SPREAD:
            detail = f"Half of the calls of the {name} differ by more than {wide:.0%} of their median."
            yield Noise(kind="spread", detail=detail)


def of_rounds(medians: Mapping[str, Sequence[float]]) -> Iterator[Noise]:
    """A pace that changed from the first to the last third of the rounds. `medians` are seconds of each round."""
    for name, each in medians.items():
        third = len(each) // 3
        if len(each) < _DRIFT_ROUNDS:
            continue
        change = median(each[-third:]) / median(each[:third]) - 1
        if abs(change) > DRIFT:
            slower = "slower" if change > 0 else "faster"
            detail = f"The {name} became {abs(change):.0%} {slower} from the first to the last third of the rounds."
            yield Noise(kind="drift", detail=detail)


def of_warmups(steady: Mapping[str, bool]) -> Iterator[Noise]:
    """Contestants whose warm-up met its bounds before three blocks in a row agreed."""
    if unsteady := [name for name, each in steady.items() if not each]:
        detail = f"The warm-up did not become steady within its bounds: {', '.join(unsteady)}."
        yield Noise(kind="unsteady_warmup", detail=detail)


def of_control(control: Estimated) -> Iterator[Noise]:
    """A control so wide that it hides what the measurement is for."""
    if control.high / control.low > WIDE_CONTROL:
        detail = (
            f"A noisy measurement: the student against itself came out anywhere from {control.low:.2f} to "
            f"{control.high:.2f}; differences smaller than that cannot be seen."
        )
        yield Noise(kind="wide_control", detail=detail)


def of_machine(device: torch.device, since: ProcessorTime) -> Iterator[Noise]:
    """Who else used the device since then, and whether it was slowed down."""
    busy = others_busy(since)
    if busy is not None and busy > BUSY_CORES:
        detail = f"Shared processor: others kept {busy:.1f} of {os.cpu_count()} cores busy meanwhile."
        yield Noise(kind="shared_processor", detail=detail)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        if others > SHARED_GPU_BYTES:
            detail = f"Shared GPU: {others / 2**30:.1f} GiB of its memory are not held by this measurement."
            yield Noise(kind="shared_gpu", detail=detail)
        if reason := throttled(device):
            yield Noise(kind="throttled", detail=f"The GPU is slowed down: {reason}.")
