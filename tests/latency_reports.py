"""Latency reports as a worker would write them, with figures of the test's choice."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from distillery.report import Estimated, LatencyComparison, LatencyReport, LatencyRow, Noise, Percentile

ENVIRONMENT: dict[str, Any] = {
    "cpu": "A fast one", "threads": 1, "load_average_1min": 0.3, "versions": {"torch": "2.9.0"}, "data": "digits",
}  # fmt: skip
ONE = Estimated(value=1.0, low=0.99, high=1.01)


def sha256_of(name: str) -> str:
    """What stands for the hash of the weights of a model."""
    return hashlib.sha256(name.encode()).hexdigest()


def row(model: str, seconds: float | None, **changes: Any) -> LatencyRow:
    """A model whose median call takes so long, and the 95th percentile twice as long."""
    times = {
        "p50": Percentile(seconds=seconds), "p90": Percentile(seconds=seconds),
        "p95": Percentile(seconds=None if seconds is None else 2 * seconds, reason="" if seconds else "too few calls"),
        "p99": Percentile(seconds=None, reason="too few calls"),
    }  # fmt: skip
    told: dict[str, Any] = {
        "model": model, "runtime": "eager", "device": "cpu", "batch_size": 1, "threads": 1, "n": 60,
        "mean_seconds": seconds or 1, "stdev_seconds": 0.1, "images_per_second": 1 / (seconds or 1), "parameters": 10,
        "macs": 20, "file_bytes": 1000, "peak_memory_bytes": 2000, "cold_start_seconds": 1.0, "warmup_calls": 3,
        "warmup_steady": True, "accuracy": 0.9, "agreement": 1.0, **times,
    }  # fmt: skip
    return LatencyRow(**told | changes)


def comparison(slow: LatencyRow, fast: LatencyRow, **changes: Any) -> LatencyComparison:
    """Two rows held against each other."""
    told: dict[str, Any] = {
        "runtime": fast.runtime, "device": fast.device, "batch_size": fast.batch_size, "threads": 1, "rounds": 30,
        "speedup": Estimated(value=2.0, low=1.9, high=2.1), "control": ONE, "verdict": "faster", "rows": (slow, fast),
    }  # fmt: skip
    return LatencyComparison(**told | changes)


def report(
    comparisons: Sequence[LatencyComparison], *, fingerprint: str = "f" * 64, **environment: Any
) -> LatencyReport:
    """A whole report; `environment` changes facts of the machine."""
    names = dict.fromkeys(each.model for one in comparisons for each in one.rows)
    return LatencyReport(
        protocol="distillery-latency/2", comparisons=tuple(comparisons), environment=ENVIRONMENT | environment,
        fingerprint=fingerprint, weights_sha256={name: sha256_of(name) for name in names}, repeat_with="-",
    )  # fmt: skip


def against(reference: str, seconds: Mapping[str, float | None], **options: Any) -> LatencyReport:
    """A report of models with these medians, all but the reference held against it."""
    slow = row(reference, seconds[reference])
    others = [name for name in seconds if name != reference]
    return report([comparison(slow, row(name, seconds[name])) for name in others], **options)


NOISE = Noise(kind="spread", detail="Half of the calls differ.")
