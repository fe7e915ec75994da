"""Plots have round ticks and strokes that differ; numbers read as people write them."""

import re

import pytest

from distillery.report import Estimated
from engine import figures, plots


def test_every_kind_has_a_mark_of_its_own() -> None:
    kinds = ("teacher", "student", "baseline", *plots.TONES[:5])
    marks = [re.sub(r'class="[^"]*"', "", plots.key(kind).partition("/>")[2]) for kind in kinds]
    assert len(set(marks)) == len(kinds)
    assert "<path" not in plots.key("control")


def test_a_key_without_a_mark_is_a_line_alone() -> None:
    assert re.findall(r"<(\w+)", plots.key("tone1", marked=False)) == ["svg", "path"]


def test_measured_points_are_joined_marked_and_have_their_intervals() -> None:
    series = [
        plots.Series("teacher", ((1, 10.0, 9.0, 11.0), (2, 19.0, None, None), (512, 90.0, 80.0, 99.0))),
        plots.Series("student", ((4, 50.0, 45.0, 55.0),)),
    ]

    def text(value: float) -> str:
        return f"{value:g}"

    drawn = plots.measured(
        series, title="a < b", x_label="x", y_label="y", x_text=text, y_text=text, reference=200.0
    )  # fmt: skip
    (path,) = re.findall(r'<path class="line teacher" d="([^"]*)"', drawn)
    across = [float(place.split()[0]) for place in path.removeprefix("M").split("L")]
    assert across[1] - across[0] == pytest.approx((across[2] - across[0]) / 9, abs=0.1)  # 2 of 512 = 2**9
    assert drawn.count('class="interval teacher"') == 2
    assert drawn.count('class="mark teacher"') == 3
    assert drawn.count('class="mark student"') == 1
    assert 'class="line student"' not in drawn  # a point alone is no line
    (reference,) = re.findall(r'class="reference"[^>]* y1="([\d.]+)"', drawn)
    assert 0 < float(reference) < min(float(place.split()[1]) for place in path.removeprefix("M").split("L"))
    assert "a &lt; b" in drawn
    own = plots.measured(
        series, title="t", x_label="x", y_label="y", x_text=text, y_text=text, x_ticks=(1, 2, 4, 512)
    )  # fmt: skip
    assert re.findall(r'class="tick" text-anchor="middle"[^>]*>(\d+)<', own) == ["1", "2", "4", "512"]
    assert plots.measured([], title="t", x_label="x", y_label="y", x_text=text, y_text=text) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.93, 0.99, [0.94, 0.96, 0.98]), (0, 480, [0, 100, 200, 300, 400])],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert plots.linear_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(1e-4, 5e-2), (0.9, 6.0), (0.97, 1.04), (3.1, 3.3)])
def test_logarithmic_ticks_lie_within_the_axis_and_there_are_at_least_two(low: float, high: float) -> None:
    ticks = plots.log_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (figures.seconds(0.00012345), "123 µs"),
        (figures.seconds(0.0123), "12.3 ms"),
        (figures.seconds(2.5), "2.50 s"),
        (figures.seconds(None), "\N{EN DASH}"),
        (figures.amount(12_976_266), "13.0 M"),
        (figures.amount(999), "999 "),
        (figures.size(2_500_000), "2.50 MB"),
        (figures.size(12), "12 B"),
        (figures.points(-0.0123), "\N{MINUS SIGN}1.2"),
        (figures.points(0.0001), "0.0"),
        (figures.points(0.05), "+5.0"),
        (figures.ratio(5.333), "5.33\N{MULTIPLICATION SIGN}"),
        (figures.ratio(56.84), "56.8\N{MULTIPLICATION SIGN}"),
        (figures.percent(0.87654, 2), "87.65 %"),
        (figures.part(0.5), "50.0 %"),
        (figures.part(0.0004), "0.04 %"),
        (figures.part(0.00004), "< 0.01 %"),
        (figures.part(0.0), "0.0 %"),
        (figures.part(None), "\N{EN DASH}"),
        (figures.plain(1e-6), "1e-6"),
        (figures.plain(123456.0), "1.235e5"),
        (figures.plain(0.12345), "0.1235"),
        (figures.plain(None), "\N{EN DASH}"),
        (figures.deviation(0.0123), "± 1.2"),
        (figures.between(Estimated(value=0.95, low=0.932, high=0.971)), "93.2 \N{EN DASH} 97.1 %"),
        (figures.duration(61), "61.0 s"),
        (figures.duration(600), "10.0 min"),
    ],
)
def test_figures_read_well(told: str, expected: str) -> None:
    assert told == expected
