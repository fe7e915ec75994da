"""What each term of the student's objective contributed, as its run told: a table, and a plot of the shares."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillery.report import Curve, Report
from engine import plots
from engine.figures import axis_percent, plain
from engine.report_curves import line
from engine.report_roles import strategy
from engine.shares import DEAD_SHARE

_RAW, _WEIGHTED, _SHARE = "training/loss/", "training/weighted/", "training/share/"
_OWN = {"cross_entropy": "hard_weight", "soft_targets": "soft_weight", "hint": "hint_weight"}
"""The terms that self-distillation brings, and where its method names their weights."""


@dataclass(frozen=True)
class TermRow:
    """One term of the objective; None stands where the run told nothing."""

    name: str
    weight: str
    raw: float | None
    weighted: float | None
    share: float | None
    """Mean over the run of its share of the gradient."""
    kind: str
    """The CSS class of its line; empty where it has none."""

    @property
    def dead(self) -> bool:
        """Whether it taught nothing."""
        return self.share is not None and self.share < DEAD_SHARE


def term_rows(report: Report) -> list[TermRow]:
    """The student's terms in the order of the spec; none where there is at most one, with nothing to compare."""
    curves, weights = {curve.key: curve for curve in report.curves}, dict(term_weights(report.spec))
    told = [key.removeprefix(_RAW) for key in curves if key.startswith(_RAW)]
    own = [name for name in told if "/" not in name]
    names = sorted(own, key=lambda name: list(weights).index(name) if name in weights else len(weights))
    if len(names) < 2:
        return []
    shares = {name: _mean(curves.get(_SHARE + name)) for name in names}
    kinds = dict(zip(_largest(shares), plots.TONES, strict=False))
    return [
        TermRow(
            name=name,
            weight=weights.get(name, ""),
            raw=_last(curves.get(_RAW + name)),
            weighted=_last(curves.get(_WEIGHTED + name)),
            share=shares[name],
            kind=kinds.get(name, ""),
        )
        for name in names
    ]


def term_weights(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The terms of the student's objective in the order of the spec, each with its weight in words."""
    method = spec.get("method")
    if not isinstance(method, dict):
        return
    if strategy(spec) == "self_distillation":
        yield from ((name, plain(method[key])) for name, key in _OWN.items() if key in method)
    for each in method.get("objective") or ():
        slowly = each.get("warmup_epochs") or 0
        rising = f", rising over {plain(slowly)} epochs" if slowly else ""
        yield each["term"], f"{plain(each['weight'])}{rising}"


def _largest(shares: Mapping[str, float | None]) -> list[str]:
    """The terms that have a line: as many as can be told apart, in their order."""
    told = {name: share for name, share in shares.items() if share is not None}
    kept = sorted(told, key=lambda name: -told[name])[: len(plots.TONES)]
    return [name for name in told if name in kept]


def _finite(curve: Curve | None) -> list[float]:
    return [] if curve is None else [value for value in curve.values if value is not None]


def _mean(curve: Curve | None) -> float | None:
    values = _finite(curve)
    return statistics.fmean(values) if values else None


def _last(curve: Curve | None) -> float | None:
    return curve.values[-1] if curve is not None and curve.values else None


def share_plot(rows: Sequence[TermRow], curves: Sequence[Curve]) -> str:
    """The share of each term by step."""
    by_key = {curve.key: curve for curve in curves}
    return plots.lines(
        [line(row.name, row.kind, by_key[_SHARE + row.name]) for row in rows if row.kind],
        title="Share of the gradient by term", x_label="Optimizer steps", y_label="Share of the gradient",
        y_text=axis_percent, bounds=(0, 1),
    )  # fmt: skip
