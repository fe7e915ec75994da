"""Intervals against oracles: exact binomial sums, and coverage on simulated data."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.report import Estimated, Verdict
from engine.intervals import calls_needed, includes_one, percentile, ratio, verdict


@pytest.mark.parametrize(("share", "needed"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_a_percentile_is_told_from_the_first_number_of_calls_that_allows_an_interval(share: float, needed: int) -> None:
    assert calls_needed(share) == needed
    enough = percentile([float(i) for i in range(needed)], share)
    assert enough.seconds is not None
    assert enough.reason == ""
    too_few = percentile([float(i) for i in range(needed - 1)], share)
    assert (too_few.seconds, too_few.low, too_few.high) == (None, None, None)
    assert str(needed - 1) in too_few.reason
    assert str(needed) in too_few.reason


def _exact_cdf(k: int, *, n: int, share: Fraction) -> Fraction:
    return sum((math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1)), Fraction(0))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(6, 400), share=st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(19, 20)]))
def test_the_bounds_are_the_narrowest_ranks_with_at_most_2_5_percent_in_each_tail(n: int, share: Fraction) -> None:
    if n < calls_needed(float(share)):
        return
    ranks = [float(rank) for rank in range(1, n + 1)]  # each value is its own rank
    told = percentile(ranks, float(share))
    assert told.low is not None
    assert told.high is not None
    low, high, tail = int(told.low), int(told.high), Fraction(1, 40)
    assert _exact_cdf(low - 1, n=n, share=share) <= tail < _exact_cdf(low, n=n, share=share)
    assert _exact_cdf(high - 1, n=n, share=share) >= 1 - tail > _exact_cdf(high - 2, n=n, share=share)


def test_percentile_intervals_cover_the_truth_at_least_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = -math.log(1 - 0.95)  # the 95th percentile of an exponential time
    told = [percentile(rng.exponential(size=150).tolist(), 0.95) for _ in range(1000)]
    covered = sum(each.low is not None and each.high is not None and each.low <= truth <= each.high for each in told)
    assert covered >= 940  # the promise is 950; this is three standard deviations of luck below what was measured, 965


def test_percentiles_of_many_calls_do_not_underflow() -> None:
    told = percentile([float(i) for i in range(200_000)], 0.99)
    assert told.low is not None
    assert told.high is not None
    assert 197_800 < told.low < told.seconds < told.high < 198_200  # type: ignore[operator]  # told, so not None


def test_the_ratio_is_the_geometric_mean_and_does_not_depend_on_which_way_round() -> None:
    teacher, student = [4.0, 9.0, 8.0] * 10, [2.0, 3.0, 1.0] * 10
    one_way = ratio(teacher, student, rng=np.random.default_rng(1))
    other_way = ratio(student, teacher, rng=np.random.default_rng(1))
    assert one_way.value == pytest.approx(math.prod([2.0, 3.0, 8.0]) ** (1 / 3))
    assert other_way.value == pytest.approx(1 / one_way.value)
    assert other_way.low == pytest.approx(1 / one_way.high, rel=0.02)


def test_the_same_seed_gives_the_same_interval() -> None:
    numbers = np.random.default_rng(2).lognormal(size=60)
    first = ratio(numbers[:30].tolist(), numbers[30:].tolist(), rng=np.random.default_rng(7))
    assert first == ratio(numbers[:30].tolist(), numbers[30:].tolist(), rng=np.random.default_rng(7))


def test_bootstrap_intervals_of_thirty_rounds_cover_the_true_ratio_about_95_times_in_100() -> None:
    rng, rounds, covered = np.random.default_rng(0), 30, 0
    for _ in range(500):
        drift = rng.lognormal(0, 0.3, size=rounds)  # what a shared machine does to a whole round
        teacher = 3.0 * drift * rng.lognormal(0, 0.05, size=rounds)
        student = drift * rng.lognormal(0, 0.05, size=rounds)
        told = ratio(teacher.tolist(), student.tolist(), rng=rng)
        covered += told.low <= 3.0 <= told.high
    assert 461 <= covered <= 489  # three standard deviations around 475


def test_ten_thousand_rounds_are_resampled_in_bounded_memory() -> None:
    told = ratio([2.0] * 10_000, [1.0] * 10_000, rng=np.random.default_rng(0))
    assert (told.value, told.low, told.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.50, 1.60, "faster"),
        (1.001, 1.05, "faster"),
        (0.50, 0.60, "slower"),
        (0.99, 1.01, "equivalent"),
        (0.98, 1.02, "equivalent"),
        (1.005, 1.015, "equivalent"),
        (0.90, 1.10, "inconclusive"),
        (0.99, 1.03, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, expected: Verdict) -> None:
    speedup = Estimated(value=(low + high) / 2, low=low, high=high)
    assert verdict(speedup, control=Estimated(value=1.0, low=0.99, high=1.01)) == expected


@pytest.mark.parametrize(("low", "high"), [(1.001, 1.01), (0.9, 0.999)])
def test_a_control_that_excludes_one_makes_any_speedup_invalid(low: float, high: float) -> None:
    control = Estimated(value=(low + high) / 2, low=low, high=high)
    assert not includes_one(control)
    assert verdict(Estimated(value=5.0, low=4.9, high=5.1), control=control) == "invalid"
