"""Small plots as inline SVG. Colours and fonts come from the page's style sheet, by class names.

Every function gives a whole `<svg>` element; text is escaped here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 490
"""Of every plot, in pixels: two stand side by side on the page."""
_RIGHT, _TOP = 16.0, 10.0
_VALUE = 62.0
"""Room for the figure to the right of the last dot."""
_ROW, _GAP = 28.0, 10.0
_AXIS = 46.0
"""Height below the plot for tick labels and the axis label."""
TONES = tuple(f"tone{number}" for number in range(1, 9))
"""Classes for lines besides the main three, told apart by colour and by dashes, as the style sheet has them."""
_CORNERS = {
    "teacher": ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
    "baseline": ((0, -6), (6, 0), (0, 6), (-6, 0)),
    "tone1": ((0, -5.5), (5.5, 4.5), (-5.5, 4.5)),
    "tone2": ((0, 5.5), (5.5, -4.5), (-5.5, -4.5)),
    "tone3": ((0, -5.5), (5.5, -1.5), (3.5, 4.5), (-3.5, 4.5), (-5.5, -1.5)),
    "tone4": ((-2, -5.5), (2, -5.5), (2, 5.5), (-2, 5.5)),
    "tone5": ((-5.5, -2), (5.5, -2), (5.5, 2), (-5.5, 2)),
    "faster": ((0, -5.5), (5.5, 4.5), (-5.5, 4.5)),
    "slower": ((0, 5.5), (5.5, -4.5), (-5.5, -4.5)),
    "inconclusive": ((0, -6), (6, 0), (0, 6), (-6, 0)),
    "invalid": ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
}
"""The marks that are no circles, in pixels around their middle."""


@dataclass(frozen=True)
class Line:
    """A curve: `kind` is a CSS class (teacher, student, baseline, or one of `TONES`); None makes a gap."""

    name: str
    kind: str
    points: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class Dot:
    """A value with its interval and, where `tail` is given, a thin line on to that value."""

    kind: str
    value: float
    low: float | None = None
    high: float | None = None
    tail: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Measured points, each with its interval from `low` to `high` where there is one, joined by a line."""

    kind: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    """x, y, low, high."""


@dataclass(frozen=True)
class Row:
    """A labelled row of dots, each on a line of its own."""

    label: str
    dots: tuple[Dot, ...]


class Scale:
    """Maps values to pixels, linearly or by the logarithm, with about `count` round ticks."""

    def __init__(
        self, low: float, high: float, *, start: float, end: float, logarithmic: bool = False, count: int = 5
    ) -> None:
        self._log = logarithmic
        self._low, self._high = (math.log(low), math.log(high)) if logarithmic else (low, high)
        self._start, self._end = start, end
        self.ticks = log_ticks(low, high) if logarithmic else linear_ticks(low, high, count=count)

    def __call__(self, value: float) -> float:
        place = (math.log(value) if self._log else value) - self._low
        return self._start + (self._end - self._start) * place / (self._high - self._low)


def linear_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between `low` and `high`, with 2 and 5 times them where few would be left."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            return inside
    return [low, high]


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_text: Callable[[float], str],
    bounds: tuple[float, float] | None = None,
    x_text: Callable[[float], str] = lambda tick: f"{tick:,.0f}",
    logarithmic: bool = False,
) -> str:
    """Curves over steps, from 0, or over what is `logarithmic`; empty where no curve has a finite value. `key` makes
    the legend."""
    told = [(x, y) for line in series for x, y in line.points if y is not None and math.isfinite(y)]
    if not told:
        return ""
    height, left, right = 280.0, 62.0, 16.0
    first, last = (min(each for each, _ in told) / 1.02, 1.02) if logarithmic else (0, 1)
    reach = max(each for each, _ in told) * last or 1
    x = Scale(first, reach, start=left, end=WIDTH - right, logarithmic=logarithmic)
    low, high = _padded(min(y for _, y in told), max(y for _, y in told), bounds=bounds)
    y = Scale(low, high, start=height - _AXIS, end=_TOP)
    parts = [_y_axis(y, left=left, right=right, text=y_text, label=y_label)]
    parts.append(_x_ticks(x, top=None, bottom=height - _AXIS, text=x_text, label=x_label))
    for line in series:
        parts += [f'<path class="line {line.kind}" d="{path}"/>' for path in _paths(line, x, y)]
        lonely = [point for point in line.points if point[1] is not None] if len(line.points) == 1 else []
        parts += [_mark(line.kind, x(at), y(value)) for at, value in lonely if value is not None]
    return _svg(parts, height=height, title=title)


def measured(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_ticks: Sequence[float] = (),
    reference: float | None = None,
) -> str:
    """Marks with vertical intervals on two logarithmic axes, joined; empty where there is no point.

    All values must be above 0. `x_ticks` are labelled in place of round numbers. `reference` is a dashed line across.
    """
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    heights = [value for _, *values in points for value in values if value is not None]
    heights += [] if reference is None else [reference]
    across = [at for at, *_ in points]
    height, left, right = 280.0, 74.0, 16.0
    x = Scale(min(across) / 1.15, max(across) * 1.15, start=left, end=WIDTH - right, logarithmic=True)
    x.ticks = list(x_ticks) or x.ticks
    y = Scale(min(heights) / 1.15, max(heights) * 1.15, start=height - _AXIS, end=_TOP, logarithmic=True)
    parts = [_y_axis(y, left=left, right=right, text=y_text, label=y_label)]
    parts.append(_x_ticks(x, top=None, bottom=height - _AXIS, text=x_text, label=x_label))
    if reference is not None:
        level = f"{y(reference):.1f}"
        parts.append(f'<line class="reference" x1="{left}" x2="{WIDTH - right}" y1="{level}" y2="{level}"/>')
    for each in series:
        line = Line("", each.kind, tuple((at, value) for at, value, *_ in each.points))
        parts += [f'<path class="line {each.kind}" d="{path}"/>' for path in _paths(line, x, y)]
        for at, value, low, high in each.points:
            if low is not None and high is not None:
                span = f'y1="{y(low):.1f}" y2="{y(high):.1f}"'
                parts.append(f'<line class="interval {each.kind}" x1="{x(at):.1f}" x2="{x(at):.1f}" {span}/>')
            parts.append(_mark(each.kind, x(at), y(value)))
    return _svg(parts, height=height, title=title)


def _paths(line: Line, x: Scale, y: Scale) -> Iterable[str]:
    """One path for each run of finite values."""
    run: list[str] = []
    for at, value in line.points:
        if value is None or not math.isfinite(value):
            if len(run) > 1:
                yield "M" + "L".join(run)
            run = []
        else:
            run.append(f"{x(at):.1f} {y(value):.1f}")
    if len(run) > 1:
        yield "M" + "L".join(run)


def dots(
    rows: Sequence[Row],
    *,
    title: str,
    label: str,
    text: Callable[[float], str],
    logarithmic: bool = False,
    reference: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Values with intervals on a common horizontal axis. Dots need no zero line, so the axis may be zoomed in."""
    low_high = _reach(rows, reference=reference, logarithmic=logarithmic, bounds=bounds)
    if low_high is None:
        return ""
    places, bottom = _lanes(rows)
    left = _label_width(row.label for row in rows)
    x = Scale(*low_high, start=left + 14, end=WIDTH - _RIGHT - _VALUE, logarithmic=logarithmic)
    parts = [_x_ticks(x, top=_TOP, bottom=bottom, text=text, label=label)]
    if reference is not None:
        at = f"{x(reference):.1f}"
        parts.append(f'<line class="reference" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom:.1f}"/>')
    for row, lanes in zip(rows, places, strict=True):
        middle = sum(lanes) / len(lanes) + 4
        name = escape(shortened(row.label))
        parts.append(f'<text class="label" x="{left:.1f}" y="{middle:.1f}">{name}</text>')
        parts += [_dot(dot, x, y) for dot, y in zip(row.dots, lanes, strict=True)]
    return _svg(parts, height=bottom + _AXIS, title=title)


def _reach(
    rows: Sequence[Row], *, reference: float | None, logarithmic: bool, bounds: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The ends of the axis; None where there is no value to show."""
    told = [each for row in rows for dot in row.dots for each in (dot.value, dot.low, dot.high, dot.tail)]
    values = [each for each in told if each is not None and math.isfinite(each)]
    if not values:
        return None
    values += [] if reference is None else [reference]
    if logarithmic:
        return min(values) / 1.15, max(values) * 1.15
    return _padded(min(values), max(values), bounds=bounds)


def _lanes(rows: Sequence[Row]) -> tuple[list[list[float]], float]:
    """The height of every dot, row by row, and of the lower end of the plot."""
    places: list[list[float]] = []
    y = _TOP
    for row in rows:
        places.append([y + _ROW * (number + 0.5) for number in range(len(row.dots))])
        y += _ROW * len(row.dots) + (_GAP if len(row.dots) > 1 else 0)
    return places, y


def _dot(dot: Dot, x: Scale, y: float) -> str:
    parts = []
    end = dot.value
    if dot.tail is not None:
        end = max(end, dot.tail)
        parts.append(_segment(f"tail {dot.kind}", x(dot.value), x(dot.tail), y))
        parts.append(
            f'<line class="tail {dot.kind}" x1="{x(dot.tail):.1f}" x2="{x(dot.tail):.1f}" '
            f'y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
        )
    if dot.low is not None and dot.high is not None:
        end = max(end, dot.high)
        parts.append(_segment(f"interval {dot.kind}", x(dot.low), x(dot.high), y))
    parts.append(_mark(dot.kind, x(dot.value), y))
    parts.append(f'<text class="value" x="{x(end) + 9:.1f}" y="{y + 4:.1f}">{escape(dot.text)}</text>')
    return "".join(parts)


def _segment(kind: str, start: float, end: float, y: float) -> str:
    return f'<line class="{kind}" x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _mark(kind: str, x: float, y: float) -> str:
    """A shape of its own for each kind, so that colour is never the only difference."""
    if kind in _CORNERS:
        corners = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in _CORNERS[kind])
        return f'<polygon class="mark {kind}" points="{corners}"/>'
    return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def key(kind: str, *, marked: bool = True) -> str:
    """For a legend, how a kind is drawn: its line, and its mark upon it."""
    stroke = "" if kind == "control" else f'<path class="line {kind}" d="M0 7H34"/>'
    mark = _mark(kind, 17, 7) if marked else ""
    return f'<svg viewBox="0 0 34 14" aria-hidden="true">{stroke}{mark}</svg>'


def deltas(
    rows: Sequence[tuple[str, float]],
    *,
    title: str,
    label: str,
    text: Callable[[float], str],
    axis_text: Callable[[float], str],
) -> str:
    """Bars to the left and right of zero, one for each name."""
    if not rows:
        return ""
    reach = max(max(abs(value) for _, value in rows), 1e-9) * 1.25
    row, total = 22.0, 22.0 * len(rows)
    left = _label_width(name for name, _ in rows)
    x = Scale(-reach, reach, start=left + 14, end=WIDTH - _RIGHT)
    parts = [_x_ticks(x, top=_TOP, bottom=_TOP + total, text=axis_text, label=label)]
    for place, (name, value) in enumerate(rows):
        y = _TOP + row * (place + 0.5)
        start, end = sorted((x(0), x(value)))
        kind, anchor, beside = ("better", "start", 5) if value >= 0 else ("worse", "end", -5)
        parts.append(f'<text class="label" x="{left:.1f}" y="{y + 4:.1f}">{escape(shortened(name))}</text>')
        parts.append(
            f'<rect class="bar {kind}" x="{start:.1f}" y="{y - 7:.1f}" width="{end - start:.1f}" height="14"/>'
            f'<text class="value" text-anchor="{anchor}" x="{x(value) + beside:.1f}" y="{y + 4:.1f}">'
            f"{escape(text(value))}</text>"
        )
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{_TOP + total:.1f}"/>')
    return _svg(parts, height=_TOP + total + _AXIS, title=title)


def shortened(name: str, *, most: int = 28) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _label_width(labels: Iterable[str]) -> float:
    """Where labels end that are set to the right; a letter is about seven pixels wide."""
    return 7.2 * max((len(shortened(label)) for label in labels), default=0) + 4


def _padded(low: float, high: float, *, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """A little room around the values, within the bounds that make sense for them."""
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    return (low, high) if bounds is None else (max(low, bounds[0]), min(high, bounds[1]))


def _x_ticks(x: Scale, *, top: float | None, bottom: float, text: Callable[[float], str], label: str) -> str:
    """Tick labels and the axis label below the plot; grid lines where `top` is given."""
    parts = []
    for tick in x.ticks:
        at = x(tick)
        if top is not None:
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{bottom + 17:.1f}">{escape(text(tick))}</text>'
        )
    middle = (x(x.ticks[0]) + x(x.ticks[-1])) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{bottom + 37:.1f}">{escape(label)}</text>'
    )
    return "".join(parts)


def _y_axis(y: Scale, *, left: float, right: float, text: Callable[[float], str], label: str) -> str:
    parts = []
    for tick in y.ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 7}" y="{at + 4:.1f}">{escape(text(tick))}</text>'
        )
    middle = (y(y.ticks[0]) + y(y.ticks[-1])) / 2
    turned = f"translate(13 {middle:.1f}) rotate(-90)"
    parts.append(f'<text class="axis" text-anchor="middle" transform="{turned}">{escape(label)}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], *, height: float, title: str) -> str:
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )
