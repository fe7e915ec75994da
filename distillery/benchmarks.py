"""What becomes of the results of benchmarks: tables as CSV, and several results side by side."""

import csv
import io
from collections.abc import Mapping

from distillery import environments
from distillery.report import LatencyComparison, LatencyReport, LatencyRow, Percentile
from distillery.views import View

COLUMNS = (
    "runtime", "device", "batch_size", "threads", "precision", "model", "against", "speedup", "speedup_low",
    "speedup_high", "control", "control_low", "control_high", "verdict", "rounds", "n", "p50_seconds", "p90_seconds",
    "p95_seconds", "p99_seconds", "mean_seconds", "stdev_seconds", "images_per_second", "cold_start_seconds",
    "peak_memory_bytes", "file_bytes", "parameters", "macs", "accuracy", "accuracy_lost", "degraded", "agreement",
    "noise",
)  # fmt: skip
_HINT = "Measure them again on one machine, or hold them against each other all the same with force=true."


class TimedIn(View):
    """A model's figures in one benchmark."""

    benchmark_id: str
    p50_seconds: float | None
    p95_seconds: float | None
    images_per_second: float
    accuracy: float
    noisy: bool
    change: float | None
    """Median call here over that in the first benchmark that has one: 0.9 is a tenth faster."""


class ComparedRow(View):
    """One model in one runtime, batch size and device, in each of the benchmarks that measured it."""

    model: str
    """Its name in the first of them; models are the same when their weights are."""
    weights_sha256: str
    runtime: str
    device: str
    batch_size: int
    timed: tuple[TimedIn, ...]


class BenchmarkComparison(View):
    """Several benchmarks side by side."""

    benchmarks: dict[str, str]
    """Ids, each with its fingerprint."""
    rows: tuple[ComparedRow, ...]
    warnings: tuple[str, ...] = ()


def as_csv(report: LatencyReport) -> str:
    """Two rows for each comparison, the reference first; a figure that is not known is left empty."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for comparison in report.comparisons:
        reference, other = comparison.rows
        table.writerow(_line(reference, comparison, against=""))
        table.writerow(_line(other, comparison, against=reference.model))
    return text.getvalue()


def _line(row: LatencyRow, comparison: LatencyComparison, *, against: str) -> list[object]:
    told = comparison if against else None
    intervals = [
        getattr(getattr(told, of), end) if told else ""
        for of in ("speedup", "control")
        for end in ("value", "low", "high")
    ]
    times = [_told(each) for each in (row.p50, row.p90, row.p95, row.p99)]
    optional = ["" if each is None else each for each in (row.parameters, row.macs)]
    return [
        row.runtime, row.device, row.batch_size, row.threads, row.precision, row.model, against, *intervals,
        told.verdict if told else "", comparison.rounds, row.n, *times, row.mean_seconds, row.stdev_seconds,
        row.images_per_second, row.cold_start_seconds,
        "" if row.peak_memory_bytes is None else row.peak_memory_bytes, row.file_bytes, *optional, row.accuracy,
        row.accuracy_lost, str(row.degraded).lower(), row.agreement, " ".join(each.kind for each in comparison.noise),
    ]  # fmt: skip


def _told(percentile: Percentile) -> float | str:
    return "" if percentile.seconds is None else percentile.seconds


def compared(reports: Mapping[str, LatencyReport], *, force: bool = False) -> BenchmarkComparison:
    """The benchmarks side by side, in the order given.

    Raises:
        EnvironmentsDiffer: they come from different environments, and nothing forces it.
    """
    warnings = environments.demand_one(reports, force=force, hint=_HINT)
    found: dict[tuple[str, str, str, int], ComparedRow] = {}
    for benchmark_id, report in reports.items():
        for row, noisy in _first_rows(report):
            sha256 = report.weights_sha256.get(row.model, "")
            place = (sha256 or row.model, row.runtime, row.device, row.batch_size)
            before = found.get(place)
            if before and before.timed[-1].benchmark_id == benchmark_id:
                continue  # the same weights under a second name
            timed = _timed(benchmark_id, row, noisy=noisy, before=before)
            found[place] = ComparedRow(
                model=before.model if before else row.model, weights_sha256=sha256, runtime=row.runtime,
                device=row.device, batch_size=row.batch_size, timed=(*(before.timed if before else ()), timed),
            )  # fmt: skip
    told = {benchmark_id: report.fingerprint for benchmark_id, report in reports.items()}
    return BenchmarkComparison(benchmarks=told, rows=tuple(found.values()), warnings=warnings)


def _first_rows(report: LatencyReport) -> list[tuple[LatencyRow, bool]]:
    """Each model once in each place: the reference stands in every comparison."""
    rows: dict[tuple[str, str, str, int], tuple[LatencyRow, bool]] = {}
    for comparison in report.comparisons:
        noisy = bool(comparison.noise) or comparison.verdict == "invalid"
        for row in comparison.rows:
            rows.setdefault((row.model, row.runtime, row.device, row.batch_size), (row, noisy))
    return list(rows.values())


def _timed(benchmark_id: str, row: LatencyRow, *, noisy: bool, before: ComparedRow | None) -> TimedIn:
    first = next((each.p50_seconds for each in before.timed if each.p50_seconds), None) if before else None
    return TimedIn(
        benchmark_id=benchmark_id,
        p50_seconds=row.p50.seconds,
        p95_seconds=row.p95.seconds,
        images_per_second=row.images_per_second,
        accuracy=row.accuracy,
        noisy=noisy,
        change=row.p50.seconds / first if first and row.p50.seconds is not None else None,
    )
