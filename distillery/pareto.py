"""Which students are worth having: accuracy against time, memory and size, and who is beaten in neither."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distillery import environments
from distillery.report import LatencyComparison, LatencyReport, LatencyRow, Verdict
from distillery.views import View

Axis = Literal["p95", "memory", "size"]
AXES: tuple[Axis, ...] = ("p95", "memory", "size")
_HINT = (
    "Name one environment with 'fingerprint' (its first characters do), or force it with force=true. "
    "There are: {there}."
)
_SHOWN = 12
"""Characters of a fingerprint that tell it from others."""


class ParetoPoint(View):
    """One student in one runtime on one device."""

    name: str
    source: str
    """The job or benchmark whose measurement this is."""
    job_id: str | None
    model_id: str | None
    architecture: str
    runtime: str
    device: str
    batch_size: int
    precision: str
    accuracy: float
    """Top-1 on the whole test split less what this runtime loses; of the images measured where that is not known."""
    p95_seconds: float | None
    """Of one call; None where there were too few calls."""
    peak_memory_bytes: int | None
    file_bytes: int
    degraded: bool
    noisy: bool
    """Whether the machine was not quiet while this was measured, or the control failed."""
    weights_sha256: str
    fingerprint: str
    front: tuple[Axis, ...] = ()
    """Against which costs no other point is at least as accurate and as cheap, and better in one of the two."""


class Pareto(View):
    """The students of a project."""

    label: str
    against: tuple[Axis, ...]
    batch_size: int
    points: tuple[ParetoPoint, ...]
    """The most accurate first."""
    batch_sizes: tuple[int, ...] = ()
    """For which there are measurements."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known of a student besides its times."""

    name: str
    job_id: str | None
    model_id: str | None
    architecture: str
    accuracy: float | None


@dataclass(frozen=True)
class Source:
    """A report, and by the names of its rows the students among them."""

    id: str
    report: LatencyReport
    students: Mapping[str, Known]


@dataclass(frozen=True)
class Wanted:
    """Which points are drawn; what is None does not narrow it."""

    label: str
    against: Sequence[Axis] = AXES
    batch_size: int = 1
    runtime: str | None = None
    device: str | None = None
    fingerprint: str | None = None


def pareto(sources: Sequence[Source], *, wanted: Wanted, force: bool = False) -> Pareto:
    """The points of all sources, which come newest first: of the same weights in the same place the newest is taken.

    Raises:
        EnvironmentsDiffer: the points come from several environments, and nothing forces it.
    """
    if wanted.fingerprint:
        sources = [each for each in sources if each.report.fingerprint.startswith(wanted.fingerprint)]
    found: dict[tuple[str, str, str], ParetoPoint] = {}
    used: dict[str, LatencyReport] = {}
    for source in sources:
        for point in _points(source, wanted):
            place = (point.weights_sha256 or point.name, point.runtime, point.device)
            if found.setdefault(place, point) is point:
                used[source.id] = source.report
    there = ", ".join(dict.fromkeys(each.fingerprint[:_SHOWN] or "none told" for each in used.values()))
    warnings = environments.demand_one(used, force=force, hint=_HINT.format(there=there))
    points = marked(list(found.values()), against=wanted.against)
    return Pareto(
        label=wanted.label,
        against=tuple(wanted.against),
        batch_size=wanted.batch_size,
        points=tuple(sorted(points, key=lambda each: (-each.accuracy, each.p95_seconds or 0.0, each.name))),
        batch_sizes=tuple(sorted({each.batch_size for source in sources for each in source.report.comparisons})),
        warnings=warnings,
    )


def marked(points: Sequence[ParetoPoint], *, against: Sequence[Axis]) -> list[ParetoPoint]:
    """The points with their `front`. One whose cost is not known is on no front of it, and beats nobody."""
    fronts = {axis: _front(points, axis) for axis in against}
    return [
        point.model_copy(update={"front": tuple(axis for axis in against if place in fronts[axis])})
        for place, point in enumerate(points)
    ]


def _front(points: Sequence[ParetoPoint], axis: Axis) -> set[int]:
    """The places of those that nobody dominates: equals do not dominate each other."""
    told = [
        (cost, -point.accuracy, place) for place, point in enumerate(points) if (cost := _cost(point, axis)) is not None
    ]
    front: set[int] = set()
    best: tuple[float, float] | None = None
    for cost, less, place in sorted(told):
        if best is None or less < best[1]:
            best = (cost, less)
        elif (cost, less) != best:
            continue
        front.add(place)
    return front


def _cost(point: ParetoPoint, axis: Axis) -> float | None:
    return {"p95": point.p95_seconds, "memory": point.peak_memory_bytes, "size": point.file_bytes}[axis]


def _points(source: Source, wanted: Wanted) -> Iterable[ParetoPoint]:
    for comparison in source.report.comparisons:
        for row in comparison.rows:
            fits = row.batch_size == wanted.batch_size
            fits &= wanted.runtime in (None, row.runtime) and wanted.device in (None, row.device)
            if fits and row.model in source.students:
                yield _point(source, source.students[row.model], row, among=comparison)


def _point(source: Source, known: Known, row: LatencyRow, *, among: LatencyComparison) -> ParetoPoint:
    invalid: Verdict = "invalid"
    return ParetoPoint(
        name=known.name,
        source=source.id,
        job_id=known.job_id,
        model_id=known.model_id,
        architecture=known.architecture,
        runtime=row.runtime,
        device=row.device,
        batch_size=row.batch_size,
        precision=row.precision,
        accuracy=row.accuracy if known.accuracy is None else known.accuracy - row.accuracy_lost,
        p95_seconds=row.p95.seconds,
        peak_memory_bytes=row.peak_memory_bytes,
        file_bytes=row.file_bytes,
        degraded=row.degraded,
        noisy=bool(among.noise) or among.verdict == invalid,
        weights_sha256=source.report.weights_sha256.get(row.model, ""),
        fingerprint=source.report.fingerprint,
    )
