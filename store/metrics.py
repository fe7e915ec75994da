"""Series of numbers over steps, thinned out on the server so that a plot of a week's training stays small."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from operator import itemgetter

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from distillery.errors import InvalidRequest
from distillery.views import MetricPoint, Metrics, MetricSeries
from store.jobs import find
from store.tables import MetricRow

MOST_POINTS = 10_000
_ROWS_AT_ONCE = 5000


def series(session: Session, job_id: str, *, keys: Sequence[str] | None = None, max_points: int = 1000) -> Metrics:
    """The series with these keys, or all, in the order of their names, each with at most `max_points` points.

    A longer series keeps its first and last point and, of each of equal stretches in between, the lowest and the
    highest; a point that was not finite counts as the lowest, so that it is seen.

    Raises:
        NotFound: there is no such job.
        InvalidRequest: `max_points` is outside 2 to 10,000.
    """
    if not 2 <= max_points <= MOST_POINTS:
        hint = f"'max_points' lies between 2 and {MOST_POINTS}."
        raise InvalidRequest(f"{max_points} points for each series are not possible.", hint=hint, pointer="/max_points")
    find(session, job_id)
    wanted = [MetricRow.job_id == job_id]
    if keys is not None:
        wanted.append(MetricRow.key.in_([key for key in keys if "\x00" not in key]))
    counted = select(MetricRow.key, func.count()).where(*wanted).group_by(MetricRow.key)
    counts = {row[0]: row[1] for row in session.execute(counted)}
    rows = session.execute(
        select(MetricRow.key, MetricRow.step, MetricRow.value)
        .where(*wanted)
        .order_by(MetricRow.key, MetricRow.step)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    found = (
        MetricSeries(
            key=key,
            points=tuple(thinned(((step, value) for _, step, value in points), total=counts[key], most=max_points)),
            total_points=counts[key],
        )
        for key, points in groupby(rows, key=itemgetter(0))
    )
    return Metrics(series=tuple(sorted(found, key=lambda each: each.key)))


@dataclass
class _Stretch:
    """The lowest and highest point of a stretch, as (step, value)."""

    points: list[tuple[int, float | None]] = field(default_factory=list)

    def add(self, point: tuple[int, float | None]) -> None:
        both = sorted([*self.points, point], key=_height)
        self.points = both if len(both) < 3 else [both[0], both[-1]]


def _height(point: tuple[int, float | None]) -> float:
    return -inf if point[1] is None else point[1]


def thinned(points: Iterable[tuple[int, float | None]], *, total: int, most: int) -> list[MetricPoint]:
    """At most `most` of the `total` points, in order; memory does not grow with `total`."""
    stretches = (most - 2) // 2
    first: list[tuple[int, float | None]] = []
    last: list[tuple[int, float | None]] = []
    between = [_Stretch() for _ in range(stretches)]
    kept: list[tuple[int, float | None]] = []
    for index, point in enumerate(points):
        if total <= most:
            kept.append(point)
        elif index == 0:
            first = [point]
        elif index == total - 1:
            last = [point]
        elif stretches:
            between[(index - 1) * stretches // (total - 2)].add(point)
    middle = [point for stretch in between for point in sorted(stretch.points)]
    return [MetricPoint(step=step, value=value) for step, value in [*kept, *first, *middle, *last]]
