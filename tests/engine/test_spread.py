"""Several seeds give a mean with Student's interval; scipy is the judge."""

import math
import statistics

import pytest
from scipy import stats

from distillery.report import SeedRun
from engine.spread import mean_of, spread

ACCURACIES = (0.912, 0.905, 0.918, 0.899, 0.921, 0.903, 0.915, 0.908, 0.9, 0.911)


@pytest.mark.parametrize("count", range(2, 21))
def test_the_interval_is_that_of_student_s_t_for_every_number_of_seeds_a_study_may_have(count: int) -> None:
    values = [0.9 + 0.001 * (7 * place % 11) for place in range(count)]
    told = mean_of(values)
    scale = statistics.stdev(values) / math.sqrt(count)
    # The quantiles are written down with four decimals.
    low, high = stats.t.interval(0.95, count - 1, loc=statistics.fmean(values), scale=scale)
    assert told.value == pytest.approx(statistics.fmean(values))
    assert (told.low, told.high) == (pytest.approx(low, abs=6e-5 * scale), pytest.approx(high, abs=6e-5 * scale))


def test_equal_values_have_an_interval_of_no_width() -> None:
    told = mean_of([0.5, 0.5, 0.5])
    assert (told.low, told.value, told.high) == (0.5, 0.5, 0.5)


def test_more_seeds_narrow_the_interval() -> None:
    few, many = mean_of(ACCURACIES[:3]), mean_of(ACCURACIES)
    assert many.high - many.low < few.high - few.low


def test_the_gain_pairs_student_and_baseline_of_the_same_seed() -> None:
    runs = [SeedRun(seed=seed, student=0.9 + 0.02 * seed, baseline=0.87 + 0.02 * seed) for seed in range(4)]
    told = spread(runs)
    assert told.runs == tuple(runs)
    assert told.gain is not None
    # The seeds differ by two points, student and baseline always by three: pairing takes the seed's part away.
    assert (told.gain.low, told.gain.high) == (pytest.approx(0.03), pytest.approx(0.03))
    assert told.student.high - told.student.low > 0.05
    assert told.student_stdev == pytest.approx(statistics.stdev([0.9, 0.92, 0.94, 0.96]))
    assert told.baseline_stdev == pytest.approx(told.student_stdev)


@pytest.mark.parametrize("baselines", [(None, None, None), (0.8, 0.81, None)])
def test_without_every_baseline_there_is_no_gain(baselines: tuple[float | None, ...]) -> None:
    told = spread([SeedRun(seed=seed, student=0.9, baseline=each) for seed, each in enumerate(baselines)])
    assert (told.baseline, told.baseline_stdev, told.gain) == (None, None, None)
    assert told.student.value == pytest.approx(0.9)
