"""The plots of training on the page: whose curves they show, and which are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillery.report import Curve, Report
from engine import plots
from engine.figures import axis_percent, plain
from engine.report import RUNS
from engine.report_roles import in_order, strategy

MOST_LINES = 6
"""Curves in one plot; more cannot be told apart."""
_LABELS = "loss/cross_entropy"
_BESIDE = "training/validation/accuracy/"
"""Before the names of networks that were trained along with the student."""
_FAMILIES = (("teacher", "teaching"), ("assistant", "assisting"))


@dataclass(frozen=True)
class Drawn:
    """A plot and the roles whose curves it shows."""

    plot: str
    roles: tuple[str, ...]
    left_out: int = 0


def roles_told(report: Report) -> list[str]:
    """Those in the tables, and exits that were trained but not delivered."""
    beside = [curve.key.removeprefix(_BESIDE) for curve in report.curves if curve.key.startswith(_BESIDE)]
    return in_order({*(each.role for each in report.quality), *beside})


def validation(report: Report, *, kinds: Mapping[str, str]) -> Drawn:
    """Accuracy on the validation split by step."""
    series = {}
    for role in roles_told(report):
        curve = _first(report.curves, f"{_run(role)}/validation/accuracy", f"{_BESIDE}{role}")
        if curve is not None:
            series[role] = curve
    return _drawn(series, kinds=kinds, y_label="Validation accuracy", share=True)


def loss(report: Report, *, kinds: Mapping[str, str]) -> Drawn:
    """The loss by step: the cross-entropy where `loss_is_labels`, else that of each network's own objective."""
    key = _LABELS if loss_is_labels(report) else "loss"
    series = {}
    for role in (each.role for each in report.quality):
        beside = [f"training/loss/{role}/cross_entropy"] if key == _LABELS else []
        curve = _first(report.curves, f"{_run(role)}/{key}", *beside)
        if curve is not None:
            series[role] = curve
    return _drawn(series, kinds=kinds, y_label="Training loss", share=False)


def loss_is_labels(report: Report) -> bool:
    """Whether all networks share the term and it means the same for each: sums of different objectives cannot be
    compared, nor can a self-distilled student's, which is summed over its classifiers.
    """
    keys = {curve.key for curve in report.curves}
    runs = {key.partition("/")[0] for key in keys}
    return strategy(report.spec) != "self_distillation" and keys >= {f"{run}/{_LABELS}" for run in runs}


def _run(role: str) -> str:
    """The name before the series of the run that trains a network of this role alone."""
    for family, run in _FAMILIES:
        if role.removeprefix(family).isdecimal():
            return role.replace(family, run)
    return RUNS.get(role, role)


def _first(curves: Sequence[Curve], *keys: str) -> Curve | None:
    by_key = {curve.key: curve for curve in curves}
    return next((by_key[key] for key in keys if key in by_key), None)


def _drawn(series: Mapping[str, Curve], *, kinds: Mapping[str, str], y_label: str, share: bool) -> Drawn:
    chosen: dict[str, str] = {}
    for role in sorted(in_order(series), key=lambda role: kinds[role] != role):
        if len(chosen) < MOST_LINES and kinds[role] not in chosen.values():
            chosen[role] = kinds[role]
    roles = in_order(chosen)
    plot = plots.lines(
        [line(role, kinds[role], series[role]) for role in roles], title=y_label, x_label="Optimizer steps",
        y_label=y_label, y_text=axis_percent if share else plain, bounds=(0, 1) if share else None,
    )  # fmt: skip
    return Drawn(plot, tuple(roles) if plot else (), len(series) - len(chosen))


def line(name: str, kind: str, curve: Curve) -> plots.Line:
    """A curve of the report as one of a plot."""
    return plots.Line(name, kind, tuple(zip(curve.steps, curve.values, strict=True)))
