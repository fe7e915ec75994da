"""The report as one HTML page: no script, no network, everything inside."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillery.report import LatencyComparison, Quality, Report, RunForms
from engine import pages, plots
from engine.figures import axis_percent, axis_points, axis_seconds, percent, points, ratio, seconds, size
from engine.report_curves import loss, loss_is_labels, roles_told, validation
from engine.report_roles import built, captions, in_order, kinds, role_name, strategy
from engine.report_scenarios import panels
from engine.report_studies import exit_rows, exit_speeds, exit_speeds_invalid, seeds_plot
from engine.report_terms import share_plot, term_rows

MOST_CLASSES = 24
"""Classes in the plot of differences; of more, the ones that differ most are shown."""
_FILTERS = (
    *("percent", "points", "seconds", "size", "amount", "ratio", "duration", "milliseconds"),
    *("between", "deviation", "part", "plain"),
)
_EMBEDDED = "data:image/png;base64,"
"""What an image on the page must begin with; others are left out."""


def render(report: Report) -> str:
    """The whole page. Names from the spec and the data are escaped.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    return pages.render("report.html.j2", _page(report), filters=_FILTERS)


def _page(report: Report) -> dict[str, Any]:
    quality = {each.role: each for each in report.quality}
    comparisons = report.latency.comparisons if report.latency else ()
    precise = 2 if report.quality and report.quality[0].images >= 2000 else 1
    return {
        "report": report,
        "name": report.spec.get("name", "distillation"),
        "outcome": {True: "helped", False: "harmed", None: "unclear"}[report.helped],
        "strategy": strategy(report.spec),
        "quality": [quality[role] for role in in_order(quality)],
        "names": {role: role_name(role) for role in roles_told(report)},
        "captions": captions(report),
        "built": built(report),
        "teacher": quality.get("teacher"),
        "student": quality.get("student"),
        "decimals": precise,
        "class_plot": class_plot(quality),
        "class_against": "baseline" if "baseline" in quality else "teacher",
        "classes_left_out": max(0, len(_class_deltas(quality)) - MOST_CLASSES),
        "time_plot": time_plot(comparisons),
        "speedup_plot": speedup_plot(comparisons),
        "panels": panels(report.latency),
        "labelled": _labelled(comparisons),
        "disagreements": [each for each in report.disagreements if each.thumbnail.startswith(_EMBEDDED)],
        "synthetic": report.synthetic if report.synthetic.startswith(_EMBEDDED) else "",
        "seeds_plot": seeds_plot(report.seeds, decimals=precise) if report.seeds else "",
        "exits": exit_rows(report),
        "exit_speeds": exit_speeds(report),
        "exit_speeds_invalid": exit_speeds_invalid(report),
        "dataset": facts(report.dataset, leave_out=("classes", "mean", "std", "notes")),
        "environment": facts(report.environment),
        "forms": computed_as(report.forms),
        "spec": json.dumps(report.spec, indent=2, ensure_ascii=False),
        **_training(report, decimals=precise),
    }


def _training(report: Report, *, decimals: int) -> dict[str, Any]:
    """The plots in which a network is known by its line or mark, which is the same in all of them."""
    drawn_as = kinds(roles_told(report))
    validated, lost, terms = validation(report, kinds=drawn_as), loss(report, kinds=drawn_as), term_rows(report)
    return {
        "kinds": drawn_as,
        "key": plots.key,
        "accuracy_plot": accuracy_plot(report.quality, kinds=drawn_as, decimals=decimals),
        "validation": validated,
        "loss": lost,
        "loss_is_labels": loss_is_labels(report),
        "drawn": in_order({*validated.roles, *lost.roles}),
        "terms": terms,
        "share_plot": share_plot(terms, report.curves),
    }


def accuracy_plot(quality: Sequence[Quality], *, kinds: Mapping[str, str], decimals: int) -> str:
    """Top-1 of each network with its interval."""
    top1 = {each.role: each.top1 for each in quality}
    rows = []
    for role in in_order(top1):
        told = top1[role]
        dot = plots.Dot(kinds[role], told.value, told.low, told.high, text=percent(told.value, decimals))
        rows.append(plots.Row(role_name(role), (dot,)))
    return plots.dots(
        rows, title="Test accuracy with 95 % intervals", label="Top-1 accuracy on the test images", text=axis_percent,
        bounds=(0, 1),
    )  # fmt: skip


def _class_deltas(quality: Mapping[str, Quality]) -> list[tuple[str, float]]:
    student, other = quality.get("student"), quality.get("baseline") or quality.get("teacher")
    if student is None or other is None:
        return []
    both = [name for name in student.per_class if name in other.per_class]
    return [(name, student.per_class[name] - other.per_class[name]) for name in both]


def class_plot(quality: Mapping[str, Quality]) -> str:
    """The student's accuracy minus the baseline's (or the teacher's, without a baseline) in each class."""
    rows = _class_deltas(quality)
    if len(rows) > MOST_CLASSES:
        largest = sorted(rows, key=lambda row: -abs(row[1]))[:MOST_CLASSES]
        rows = sorted(largest, key=lambda row: -row[1])
    return plots.deltas(
        rows, title="Difference in accuracy by class", label="Difference in accuracy, percentage points", text=points,
        axis_text=axis_points,
    )  # fmt: skip


def _labelled(comparisons: Sequence[LatencyComparison]) -> list[tuple[str, LatencyComparison]]:
    """Each comparison with a short name: runtime, batch size, what it was timed from, the device where several are."""
    several = len({each.device for each in comparisons}) > 1
    labels = []
    for each in comparisons:
        parts = [each.runtime, str(each.batch_size)]
        parts += ["bytes"] if each.input == "end_to_end" else []
        labels.append((" · ".join([*parts, *([each.device] if several else [])]), each))
    return labels


def time_plot(comparisons: Sequence[LatencyComparison]) -> str:
    """The median call of teacher and student, its interval, and a line on to the 95th percentile."""
    rows = [
        plots.Row(
            label,
            tuple(
                plots.Dot(
                    row.model, row.p50.seconds, row.p50.low, row.p50.high, row.p95.seconds, seconds(row.p50.seconds)
                )
                for row in comparison.rows
                if row.p50.seconds is not None
            ),
        )
        for label, comparison in _labelled(comparisons)
    ]
    rows = [row for row in rows if row.dots]
    return plots.dots(
        rows, title="Time of one call", label="Time of one call (logarithmic)", text=axis_seconds, logarithmic=True
    )


def speedup_plot(comparisons: Sequence[LatencyComparison]) -> str:
    """The speed-up of each comparison and, hollow, the control."""
    rows = [
        plots.Row(
            label,
            (
                plots.Dot(
                    "student", each.speedup.value, each.speedup.low, each.speedup.high, text=ratio(each.speedup.value)
                ),
                plots.Dot(
                    "control", each.control.value, each.control.low, each.control.high, text=f"{each.control.value:.3f}"
                ),
            ),
        )
        for label, each in _labelled(comparisons)
    ]
    return plots.dots(
        rows, title="Speed-up with 95 % intervals", label="Teacher's time divided by student's (logarithmic)",
        text=lambda value: f"{value:g}", logarithmic=True, reference=1.0,
    )  # fmt: skip


def facts(values: dict[str, Any], *, leave_out: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Names and values as a page lists them; what is None is left out."""
    for name, value in values.items():
        if name in leave_out or value is None:
            continue
        if isinstance(value, dict):
            yield name.replace("_", " "), ", ".join(f"{key} {each}" for key, each in value.items())
        elif name.endswith("_bytes") and isinstance(value, int):
            yield name.removesuffix("_bytes").replace("_", " "), size(value)
        else:
            yield name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)


def computed_as(forms: Sequence[RunForms]) -> list[tuple[str, str]]:
    """Runs, those of the same forms together, and in words how their networks computed."""
    runs: dict[str, list[str]] = {}
    for each in forms:
        teachers = ", ".join(dict.fromkeys(each.teachers))
        said = f"teacher {teachers}; student {each.student}" if teachers else each.student
        runs.setdefault(said, []).append(each.run)
    return [(", ".join(names), said) for said, names in runs.items()]
