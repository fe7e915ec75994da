"""What the command line shows of benchmarks: a result, several side by side, the students of a project."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from distillery.benchmarks import BenchmarkComparison
from distillery.pareto import Pareto, ParetoPoint
from distillery.report import LatencyReport, LatencyRow
from distillery.tables import STYLES, percent
from distillery.views import BenchmarkSummary

_NONE = "\N{EN DASH}"
_AXES = {"p95": "p95", "memory": "peak memory", "size": "file"}
Heads = Sequence[str]


def result_table(report: LatencyReport) -> Table:
    """In each runtime, batch size and device the reference, and below it every other model."""
    table = _table(("model", "runtime", "device"), ("p50", "p95", "images/s", "speed-up", "95 % interval", "accuracy"))
    table.add_column("verdict")
    told = set()
    for each in report.comparisons:
        reference, other = each.rows
        place = f"{each.runtime}, batch {each.batch_size}"
        if (place, each.device) not in told:
            told.add((place, each.device))
            table.add_row(Text(reference.model), place, each.device, *_times(reference), "", "", _accuracy(reference))
        interval = f"{each.speedup.low:.2f} to {each.speedup.high:.2f}"
        verdict = Text(each.verdict, style=STYLES.get(each.verdict, ""))
        table.add_row(
            Text(other.model), place, each.device, *_times(other), f"{each.speedup.value:.2f}x", interval,
            _accuracy(other), verdict + Text(" noisy" if each.noise else "", style="yellow"),
        )  # fmt: skip
    for failure in report.failures:
        place = f"{failure.runtime}, batch {failure.batch_size}"
        broken = Text("broke off", style="red")
        table.add_row(Text(failure.model), place, failure.device, *[""] * 6, broken)
    return table


def comparison_table(found: BenchmarkComparison) -> Table:
    """The median call of each model in each benchmark, and how it changed since the first."""
    table = _table(("model", "runtime", "device"), tuple(found.benchmarks))
    for row in found.rows:
        timed = {each.benchmark_id: each for each in row.timed}
        cells = []
        for benchmark_id in found.benchmarks:
            each = timed.get(benchmark_id)
            change = "" if each is None or each.change is None else f" ({100 * (each.change - 1):+.1f} %)"
            cells.append(_NONE if each is None else _milliseconds(each.p50_seconds) + change)
        table.add_row(Text(row.model), f"{row.runtime}, batch {row.batch_size}", row.device, *cells)
    return table


def pareto_table(found: Pareto) -> Table:
    """The students, the most accurate first; a star after a cost means that nobody is better against it."""
    costs = tuple(_AXES[axis] for axis in found.against)
    table = _table(("student", "architecture", "runtime", "device"), ("accuracy", *costs))
    table.add_column("measured in")
    for point in found.points:
        cells = (f"{_cost(point, axis)}{' *' if axis in point.front else '  '}" for axis in found.against)
        doubt = " (degraded)" if point.degraded else ""
        table.add_row(
            Text(point.name), point.architecture, point.runtime, point.device, percent(point.accuracy) + doubt, *cells,
            Text(point.source) + Text(" noisy" if point.noisy else "", style="yellow"),
            style="" if point.front else "dim",
        )  # fmt: skip
    return table


def list_table(found: Sequence[BenchmarkSummary]) -> Table:
    """One benchmark a line."""
    table = _table(("id", "name", "status", "models", "environment"), ())
    for each in found:
        models = ", ".join(each.models)
        status = Text(each.status, style=STYLES.get(each.status, ""))
        table.add_row(each.id, Text(each.name), status, Text(models), each.fingerprint[:12])
    return table


def _table(heads: Heads, figures: Heads) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head)
    for head in figures:
        table.add_column(head, justify="right")
    return table


def _times(row: LatencyRow) -> tuple[str, str, str]:
    return _milliseconds(row.p50.seconds), _milliseconds(row.p95.seconds), f"{row.images_per_second:,.0f}"


def _accuracy(row: LatencyRow) -> str:
    return percent(row.accuracy) + (" (degraded)" if row.degraded else "")


def _cost(point: ParetoPoint, axis: str) -> str:
    if axis == "p95":
        return _milliseconds(point.p95_seconds)
    return _size(point.peak_memory_bytes if axis == "memory" else point.file_bytes)


def _milliseconds(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{1000 * seconds:,.3f} ms"


def _size(value: int | None) -> str:
    if value is None:
        return _NONE
    return f"{value / 1e3:,.1f} kB" if value < 1e6 else f"{value / 1e6:,.1f} MB"
