"""Intervals for measured times: order statistics for percentiles, the bootstrap for ratios. No torch."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distillery.report import Estimated, Percentile, Verdict

CONFIDENCE = 0.95
RESAMPLES = 10_000
EQUIVALENT_WITHIN = 0.02
_DRAWS_AT_ONCE = 2_000_000  # bounds the memory of the bootstrap at 32 MB, however many rounds there are


def calls_needed(share: float, *, confidence: float = CONFIDENCE) -> int:
    """The fewest calls that allow a two-sided interval for the percentile `share`: 36, 72, 368 for p90, p95, p99.

    The highest call lies above the percentile with probability 1 - share^n, which must reach (1 + confidence) / 2.
    """
    tail = (1 - confidence) / 2
    return math.ceil(math.log(tail) / math.log(max(share, 1 - share)))


def percentile(seconds: Sequence[float], share: float) -> Percentile:
    """The percentile `share` (0 to 1) of timed calls with a distribution-free 95 % interval, or why there is none.

    Both bounds are order statistics whose ranks come from the binomial distribution (David & Nagaraja, Order
    Statistics, 2003, section 7.1). The calls are taken as independent.
    """
    n = len(seconds)
    needed = calls_needed(share)
    if n < needed:
        return Percentile(seconds=None, reason=f"{n} calls; a 95 % interval for p{share * 100:g} needs {needed}.")
    ordered = sorted(seconds)
    low, high = _ranks(n, share)
    return Percentile(seconds=ordered[math.ceil(n * share) - 1], low=ordered[low - 1], high=ordered[high - 1])


def _ranks(n: int, share: float) -> tuple[int, int]:
    """Ranks (from 1) of the calls that bound the percentile; each tail holds at most 2.5 %."""
    tail = (1 - CONFIDENCE) / 2
    below = _binomial_cdf(n, share)  # below[k] = P(at most k calls lie under the percentile)
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, n)


def _binomial_cdf(n: int, share: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0 to n, summed in logarithms so that large n do not underflow."""
    k = np.arange(n + 1)
    factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    choose = factorial[n] - factorial - factorial[::-1]
    logs: NDArray[np.float64] = choose + k * math.log(share) + (n - k) * math.log1p(-share)
    cumulated: NDArray[np.float64] = np.minimum(np.cumsum(np.exp(logs)), 1.0)
    return cumulated


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, rng: np.random.Generator, looks: int = 1
) -> Estimated:
    """Geometric mean of the paired ratios with a 95 % bootstrap interval; pairs (rounds) are resampled.

    Whoever looks, finds nothing and measures on is more easily fooled by chance: `looks` is how often the pairs were
    looked at, this time included, and the chance of missing the truth that is allowed is divided by it (Bonferroni).

    The percentile interval is widened for small samples as Hesterberg proposes ("What Teachers Should Know about the
    Bootstrap", 2014, section 3.5): at 30 rounds the plain one covers only about 93.5 %.
    """
    logs = np.log(np.asarray(numerators, dtype=np.float64) / np.asarray(denominators, dtype=np.float64))
    n = len(logs)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    chunks = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    means = np.concatenate([logs[rng.integers(0, n, size=(rows, n))].mean(axis=1) for rows in chunks])
    tail = _widened_tail(n, confidence=1 - (1 - CONFIDENCE) / looks)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimated(value=math.exp(float(logs.mean())), low=math.exp(float(low)), high=math.exp(float(high)))


def _widened_tail(n: int, *, confidence: float = CONFIDENCE) -> float:
    """The share cut from each end of the bootstrap distribution so that the interval is as wide as Student's t asks."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    free = n - 1
    # The Cornish-Fisher expansion of Student's t: exact to three digits from ten degrees of freedom on.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-math.sqrt(n / free) * t)


def includes_one(ratio: Estimated) -> bool:
    """Whether a ratio may be 1 for all that was measured."""
    return ratio.low <= 1 <= ratio.high


def verdict(speedup: Estimated, *, control: Estimated) -> Verdict:
    """What a speed-up means, given the control (the student against itself) measured in the same rounds.

    `equivalent` is tested before `faster`: an interval within 2 % of 1 is no difference worth a name, even where it
    excludes 1.
    """
    if not includes_one(control):
        return "invalid"
    if speedup.low >= 1 - EQUIVALENT_WITHIN and speedup.high <= 1 + EQUIVALENT_WITHIN:
        return "equivalent"
    if speedup.low > 1:
        return "faster"
    if speedup.high < 1:
        return "slower"
    return "inconclusive"
