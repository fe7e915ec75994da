"""What several training seeds say together: mean, deviation, and Student's interval for the mean."""

import math
import statistics
from collections.abc import Sequence

from distillery.report import Estimated, SeedRun, Spread

_T975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930),
)
"""The 97.5 % quantile of Student's t for 1 to 19 degrees of freedom: a study has at most 20 seeds."""


def spread(runs: Sequence[SeedRun]) -> Spread:
    """Student, baseline and their difference over two or more runs."""
    students = [run.student for run in runs]
    baselines = [run.baseline for run in runs if run.baseline is not None]
    whole = len(baselines) == len(runs)
    return Spread(
        runs=tuple(runs),
        student=mean_of(students),
        student_stdev=statistics.stdev(students),
        baseline=mean_of(baselines) if whole else None,
        baseline_stdev=statistics.stdev(baselines) if whole else None,
        gain=mean_of([a - b for a, b in zip(students, baselines, strict=True)]) if whole else None,
    )


def mean_of(values: Sequence[float]) -> Estimated:
    """The mean of 2 to 20 values with its 95 % interval, mean ± t·s/√n.

    With few values the interval is wide, as it should be: three accuracies that differ by a point are known to ±1.2.
    """
    mean = statistics.fmean(values)
    half = _T975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Estimated(value=mean, low=mean - half, high=mean + half)
