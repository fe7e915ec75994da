"""Tables of batch sweeps and servers for the command line."""

from rich import box
from rich.table import Table

from distillery.report import Input, LatencyReport, Percentile, ServerResult, Sweep


def sweep_table(latency: LatencyReport) -> Table:
    """The batch size of the best throughput of each network, and why no larger one was tried."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("batch sweep", "device", "model"):
        table.add_column(column)
    for column in ("best batch", "images/s", "95 % interval", "p50", "up to"):
        table.add_column(column, justify="right")
    table.add_column("why no larger", overflow="fold")
    for each in latency.sweeps:
        best = next((point for point in each.points if point.batch_size == each.best_batch_size), None)
        told = ["-"] * 4
        if best is not None:
            rate = best.images_per_second
            interval = f"{rate.low:,.0f} to {rate.high:,.0f}"
            told = [str(best.batch_size), f"{rate.value:,.0f}", interval, brief(best.p50_seconds)]
        largest = str(each.points[-1].batch_size) if each.points else "-"
        table.add_row(*_place(each), *told, largest, each.stopped)
    return table


def server_table(latency: LatencyReport) -> Table:
    """The highest rate of single images at which each network keeps to its objective, and the latency there."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("server", "device", "model"):
        table.add_column(column)
    for column in ("p99 at most", "highest rate", "next missed", "p50 there", "p95 there", "p99 there"):
        table.add_column(column, justify="right")
    for each in latency.servers:
        there = next((rate for rate in each.rates if rate.requests_per_second == each.highest_rate), None)
        table.add_row(
            *_place(each),
            brief(each.objective_seconds),
            _per_second(each.highest_rate),
            _per_second(each.lowest_missed),
            *([_told(percentile) for percentile in (there.p50, there.p95, there.p99)] if there else ["-"] * 3),
        )
    return table


def scenario_notes(latency: LatencyReport) -> list[str]:
    """What a reader of these tables should know."""
    measured: tuple[Sweep | ServerResult, ...] = (*latency.sweeps, *latency.servers)
    return [f"{', '.join(_place(each))}: {note}" for each in measured for note in each.notes]


def with_input(runtime: str, given: Input) -> str:
    """The runtime, and that it was timed from encoded bytes on where it was."""
    return runtime if given == "model" else f"{runtime} from bytes"


def brief(seconds: float) -> str:
    """A short time in milliseconds or microseconds."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _place(each: Sweep | ServerResult) -> tuple[str, str, str]:
    return (
        with_input(each.runtime, each.input),
        f"{each.device}, {each.threads} thread{'' if each.threads == 1 else 's'}",
        each.model,
    )


def _told(percentile: Percentile) -> str:
    return "-" if percentile.seconds is None else brief(percentile.seconds)


def _per_second(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}/s"
