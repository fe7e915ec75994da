"""Numbers as people read them. Every function gives text with its unit."""

import math

from distillery.report import Estimated, Percentile

NONE = "\N{EN DASH}"
"""Stands where there is no figure."""
_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def percent(share: float | None, decimals: int = 1) -> str:
    """0.8765 is 87.7 %."""
    return NONE if share is None else f"{100 * share:.{decimals}f} %"


def between(told: Estimated, decimals: int = 1) -> str:
    """The interval of a share: 0.932 to 0.971 is 93.2 - 97.1 %, with a dash as long as for a missing figure."""
    return f"{100 * told.low:.{decimals}f} {NONE} {100 * told.high:.{decimals}f} %"


def axis_percent(share: float) -> str:
    """As short as an axis wants it."""
    return f"{100 * share:.4g} %"


def points(share: float, decimals: int = 1) -> str:
    """A difference of shares in percentage points, always with its sign."""
    text = f"{100 * share:+.{decimals}f}"
    return text.replace("-", _MINUS) if float(text) != 0 else f"{0:.{decimals}f}"


def axis_points(share: float) -> str:
    """As short as an axis wants it."""
    return f"{100 * share:+.3g}".replace("-", _MINUS) if share else "0"


def deviation(share: float, decimals: int = 1) -> str:
    """A standard deviation of shares in percentage points."""
    return f"± {100 * share:.{decimals}f}"


def part(share: float | None) -> str:
    """A share of a whole, the small ones with more digits: 0.0004 is 0.04 %."""
    if share is None:
        return NONE
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return percent(share, 1 if share >= 0.01 or not share else 2)


def plain(value: float | None) -> str:
    """Four digits at most."""
    if value is None:
        return NONE
    digits, _, exponent = f"{value:.4g}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def seconds(value: float | None) -> str:
    """A short time in the unit that suits it."""
    if value is None:
        return NONE
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1 or unit == "µs":
            return f"{_three_digits(value * factor)} {unit}"
    raise AssertionError("the last unit always suits")


def axis_seconds(value: float) -> str:
    """As short as an axis wants it."""
    factor, unit = next((each for each in ((1, "s"), (1e3, "ms")) if value * each[0] >= 1), (1e6, "µs"))
    return f"{value * factor:.3g} {unit}"


def milliseconds(told: Percentile) -> str:
    """A percentile in milliseconds without the unit, for a column that names it; a dash where it is not told."""
    return NONE if told.seconds is None else f"{1000 * told.seconds:,.3f}"


def duration(value: float) -> str:
    """A long time."""
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    return NONE if value is None else f"{amount(value)}B"


def amount(value: float) -> str:
    """A large count with a decimal prefix: 12,976,266 is 13.0 M."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_three_digits(value / factor)} {prefix}"
    return f"{value:.0f} "


def ratio(value: float) -> str:
    """A factor: 5.3x."""
    return f"{_three_digits(value)}{_TIMES}"


def _three_digits(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(decimals, 4)}f}"
