"""The result of a benchmark as one HTML page: for each runtime, batch size and device who is faster, and how the calls
spread. No script, no network, everything inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from distillery.report import LatencyComparison, LatencyReport, LatencyRow, Verdict
from engine import pages, plots
from engine.figures import axis_percent, axis_seconds, ratio
from engine.latency.samples import read_rows
from engine.latency.several import COMPARED
from engine.report_page import facts
from engine.report_scenarios import Panel, panels, server_plot, sweep_plot

QUANTILES = 120
"""Points of each distribution: the tail is told by the table."""
_FILTERS = ("percent", "points", "seconds", "size", "milliseconds")
_KINDS = ("teacher", "student", "baseline", *plots.TONES)
_LONGEST = 18

Place = tuple[str, str, int, str]
"""Runtime, device, batch size and input."""
Calls = Mapping[tuple[str, Place, str], Sequence[float]]
"""Seconds of every call, by the model that was compared, the place, and the model that was called."""


@dataclass(frozen=True)
class Cell:
    """Everything that was compared in one runtime, batch size, device and input."""

    title: str
    comparisons: tuple[LatencyComparison, ...]
    rows: tuple[tuple[LatencyRow, LatencyComparison | None], ...]
    """The reference, then every other model with its comparison."""
    speedups: str
    distribution: str


def render(report: LatencyReport, *, name: str, samples: Path) -> str:
    """The whole page; `samples` is the CSV that `compare_several` wrote, or `compare`. All names are escaped.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    calls = read_calls(samples)
    kinds = {model: _KINDS[place % len(_KINDS)] for place, model in enumerate(report.weights_sha256)}
    reference = next(iter(report.weights_sha256))
    values: dict[str, Any] = {
        "report": report,
        "name": name,
        "reference": reference,
        "kinds": kinds,
        "key": plots.key,
        "panels": _panels(report, kinds=kinds),
        "cells": _cells(report, calls=calls, kinds=kinds),
        "told": {each: _first_row(report, each) for each in report.weights_sha256},
        "verdicts": get_args(Verdict),
        "environment": facts(report.environment),
        "samples": samples.name,
        "noisy": [each for each in report.comparisons if each.noise],
    }
    return pages.render("benchmark.html.j2", values, filters=_FILTERS)


def read_calls(samples: Path) -> dict[tuple[str, Place, str], list[float]]:
    """The raw times, from Parquet or CSV.

    Raises:
        MissingDependency: pyarrow, which reads Parquet, is not installed.
    """
    calls: dict[tuple[str, Place, str], list[float]] = {}
    for row in read_rows(samples):
        place = (row["runtime"], row["device"], int(row["batch"]), row.get("input", "model"))
        compared = row.get(COMPARED, "student")
        calls.setdefault((compared, place, row["model"]), []).append(float(row["seconds"]))
    return calls


def _panels(report: LatencyReport, *, kinds: Mapping[str, str]) -> list[Panel]:
    """Sweeps and servers, drawn in the lines of their models: a name of the user's is no name of a class."""
    found = []
    for panel in panels(report):
        sweeps = [each.model_copy(update={"model": kinds[each.model]}) for each in panel.sweeps]
        servers = [each.model_copy(update={"model": kinds[each.model]}) for each in panel.servers]
        found.append(replace(panel, sweep_plot=sweep_plot(sweeps), server_plot=server_plot(servers)))
    return found


def _cells(report: LatencyReport, *, calls: Calls, kinds: Mapping[str, str]) -> list[Cell]:
    by_place: dict[Place, list[LatencyComparison]] = {}
    for each in report.comparisons:
        by_place.setdefault((each.runtime, each.device, each.batch_size, each.input), []).append(each)
    return [_cell(place, found, calls=calls, kinds=kinds) for place, found in by_place.items()]


def _cell(place: Place, found: Sequence[LatencyComparison], *, calls: Calls, kinds: Mapping[str, str]) -> Cell:
    reference = found[0].rows[0]
    rows: list[tuple[LatencyRow, LatencyComparison | None]] = [(reference, None)]
    rows += [(each.rows[1], each) for each in found]
    return Cell(
        title=f"{place[0]} · batch {place[2]} · {place[1]}{'' if place[3] == 'model' else ' · from encoded bytes'}",
        comparisons=tuple(found),
        rows=tuple(rows),
        speedups=_speedups(found, reference=reference.model),
        distribution=_distribution(place, rows, compared_first=found[0].rows[1].model, calls=calls, kinds=kinds),
    )


def _speedups(found: Sequence[LatencyComparison], *, reference: str) -> str:
    rows = [
        plots.Row(
            ending(each.rows[1].model),
            (
                plots.Dot(
                    each.verdict,
                    each.speedup.value,
                    each.speedup.low,
                    each.speedup.high,
                    text=ratio(each.speedup.value),
                ),
                plots.Dot(
                    "control", each.control.value, each.control.low, each.control.high, text=f"{each.control.value:.3f}"
                ),
            ),
        )
        for each in found
    ]
    return plots.dots(
        rows, title="Speed-up with 95 % intervals", label=f"Time of {ending(reference)} divided by that of the model",
        text=lambda value: f"{value:g}", logarithmic=True, reference=1.0,
    )  # fmt: skip


def _distribution(
    place: Place,
    rows: Sequence[tuple[LatencyRow, LatencyComparison | None]],
    *,
    compared_first: str,
    calls: Calls,
    kinds: Mapping[str, str],
) -> str:
    """The share of the calls that were done within a time. The reference's are those of its first comparison."""
    series = []
    for row, comparison in rows:
        compared = compared_first if comparison is None else row.model
        seconds = calls.get((compared, place, row.model), ())[-row.n :]  # a pass that was measured again comes last
        series.append(plots.Line(row.model, kinds[row.model], quantiles(seconds)))
    return plots.lines(
        series, title="Distribution of the calls", x_label="Time of one call (logarithmic)", y_label="Share of calls",
        y_text=axis_percent, bounds=(0, 1), x_text=axis_seconds, logarithmic=True,
    )  # fmt: skip


def quantiles(seconds: Sequence[float]) -> tuple[tuple[float, float | None], ...]:
    """The empirical distribution at most `QUANTILES` times: (seconds, share of the calls that took no longer)."""
    ordered = sorted(each for each in seconds if each > 0)
    if not ordered:
        return ()
    count = min(QUANTILES, len(ordered))
    ranks = [round((place + 1) * len(ordered) / count) for place in range(count)]
    return tuple((ordered[rank - 1], rank / len(ordered)) for rank in ranks)


def ending(name: str) -> str:
    """A name that fits beside a plot: of ids it is the end that tells them apart."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _first_row(report: LatencyReport, model: str) -> LatencyRow | None:
    rows = (row for each in report.comparisons for row in each.rows if row.model == model)
    return next(rows, None)
