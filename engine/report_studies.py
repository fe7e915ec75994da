"""What only some studies have, made ready for the page: runs over several seeds, and early exits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distillery.report import Estimated, LatencyComparison, Quality, Report, Spread
from engine import plots
from engine.figures import axis_percent, axis_points, percent, points
from engine.report_roles import role_name


@dataclass(frozen=True)
class ExitRow:
    """An early exit, or the whole student, with which it is compared."""

    name: str
    stage: str
    quality: Quality
    macs_share: float | None
    """Of the multiply-adds of the whole student."""


def exit_rows(report: Report) -> list[ExitRow]:
    """The exits from shallow to deep, then the whole student; none without exits."""
    quality = {each.role: each for each in report.quality}
    if not report.exits or "student" not in quality:
        return []
    whole = quality["student"]
    rows = [
        ExitRow(role_name(each.role), each.stage, quality[each.role], _share(quality[each.role].macs, whole.macs))
        for each in report.exits
        if each.role in quality
    ]
    return [*rows, ExitRow("Whole student", "", whole, 1.0)]


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def exit_speeds(report: Report) -> list[tuple[str, LatencyComparison]]:
    """Every valid measurement of an exit against the whole student."""
    return [(name, each) for name, each in _exit_comparisons(report) if each.verdict != "invalid"]


def exit_speeds_invalid(report: Report) -> int:
    """How many measurements are left out, as the control was off."""
    return sum(each.verdict == "invalid" for _, each in _exit_comparisons(report))


def _exit_comparisons(report: Report) -> Iterator[tuple[str, LatencyComparison]]:
    for each in report.exits:
        for comparison in () if each.latency is None else each.latency.comparisons:
            yield role_name(each.role), comparison


def seeds_plot(spread: Spread, *, decimals: int) -> str:
    """The difference of student and baseline in each run and their mean; without a baseline, the student alone."""
    if spread.gain is not None:
        differences = [run.student - run.baseline for run in spread.runs if run.baseline is not None]
        return plots.dots(
            _seed_rows(spread, differences, spread.gain, text=lambda value: points(value, decimals)),
            title="Difference of student and baseline by seed", label="Student minus baseline, percentage points",
            text=axis_points, reference=0.0,
        )  # fmt: skip
    return plots.dots(
        _seed_rows(
            spread, [run.student for run in spread.runs], spread.student, text=lambda value: percent(value, decimals)
        ),
        title="Accuracy of the student by seed", label="Top-1 accuracy on the test images", text=axis_percent,
    )  # fmt: skip


def _seed_rows(
    spread: Spread, values: Sequence[float], mean: Estimated, *, text: Callable[[float], str]
) -> list[plots.Row]:
    runs = [
        plots.Row(f"Seed {run.seed}", (plots.Dot("control", value, text=text(value)),))
        for run, value in zip(spread.runs, values, strict=True)
    ]
    return [*runs, plots.Row("Mean", (plots.Dot("student", mean.value, mean.low, mean.high, text=text(mean.value)),))]
