"""The distillation report: how good teacher, student and baseline are, and what follows from that, in plain words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from distillery.report import (
    Curve,
    Disagreement,
    EarlyExit,
    Estimated,
    LatencyComparison,
    LatencyReport,
    Quality,
    Report,
    RunForms,
    Spread,
)
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod, SelfDistillationMethod
from engine import black_boxes, evaluate
from engine import environment as machine
from engine.data.dataset import Dataset
from engine.data.sealed import SealedSplit
from engine.figures import percent, points
from engine.loop import Trained
from engine.report_roles import role_name

CURVE_POINTS = 500
"""Most points of a curve that are kept; enough for a plot, and the report stays small."""
FEW_IMAGES = 200
"""Below this the interval of an accuracy of 0.85 is wider than ten points."""
RUNS = {"teacher": "teaching", "student": "training", "baseline": "baseline"}
"""The names before the series of the three networks that every report is about."""
_SPEED_WARNINGS = {
    "slower": "The student is slower than the teacher",
    "inconclusive": "Whether the student is faster than the teacher could not be told",
    "invalid": "A latency measurement is invalid, because the student against itself did not come out as 1",
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network and its answers to the whole test split.

    `logits` [N, K] are those of the delivered (best) weights, `last_logits` those of the last epoch's. `file_bytes` is
    the size of its weights file. `trained` is None for a network that was not trained in a run of its own; `run` is the
    name before that run's series, where it is not the usual one of its role.
    """

    architecture: str
    network: nn.Module
    logits: Tensor
    file_bytes: int
    trained: Trained | None = None
    last_logits: Tensor | None = None
    run: str = ""


@dataclass(frozen=True)
class Besides:
    """What only some studies have."""

    others: Mapping[str, Candidate] = field(default_factory=dict)
    """More networks by role: members of an ensemble, assistants, early exits."""
    spread: Spread | None = None
    exits: tuple[EarlyExit, ...] = ()
    synthetic: str = ""


def assemble(
    student: Candidate,
    *,
    teacher: Candidate | None,
    baseline: Candidate | None,
    dataset: Dataset,
    spec: JobSpec,
    latency: LatencyReport | None,
    besides: Besides | None = None,
    forms: Sequence[RunForms] = (),
    warnings: Sequence[str] = (),
) -> Report:
    """The report of one job. `warnings` are what was noticed earlier; the report adds its own.

    Raises:
        MissingDependency: Pillow, which draws the thumbnails, is not installed.
        TrainingDiverged: a network's answers are not finite.
    """
    besides = besides or Besides()
    named = {"teacher": teacher, "student": student, "baseline": baseline, **besides.others}
    candidates = {role: each for role, each in named.items() if each is not None}
    taught_by = None if teacher is None else teacher.logits
    quality = {
        role: _quality(role, each, teacher_logits=taught_by, dataset=dataset) for role, each in candidates.items()
    }
    gain = _gain(student, baseline=baseline, spread=besides.spread, labels=dataset.test.labels.cpu())
    return Report(
        summary=summary(quality["student"], gain=gain, latency=latency, besides=_aside(spec, quality, besides)),
        helped=helped(gain),
        gain=gain,
        gap_closed=gap_closed(quality, besides.spread),
        speedup=next((each.speedup for each in _valid(latency)), None),
        warnings=(*warnings, *_warnings(quality, gain=gain, latency=latency, alone=_alone(spec))),
        quality=tuple(quality.values()),
        seeds=besides.spread,
        exits=besides.exits,
        synthetic=besides.synthetic,
        disagreements=_disagreements(student, teacher, dataset=dataset),
        curves=tuple(curve for role, each in candidates.items() for curve in _curves(role, each)),
        latency=latency,
        forms=tuple(forms),
        dataset=_described(dataset),
        environment=machine.describe(),
        spec=spec.model_dump(mode="json"),
    )


def _disagreements(student: Candidate, teacher: Candidate | None, *, dataset: Dataset) -> tuple[Disagreement, ...]:
    if teacher is None:
        return ()
    return evaluate.disagreements(
        dataset.test, student_logits=student.logits, teacher_logits=teacher.logits, classes=dataset.classes
    )


def _quality(role: str, candidate: Candidate, *, teacher_logits: Tensor | None, dataset: Dataset) -> Quality:
    labels, trained = dataset.test.labels.cpu(), candidate.trained
    scores = evaluate.score(candidate.logits, labels, classes=dataset.classes)
    agreement, kl = None, None
    if role != "teacher" and teacher_logits is not None:
        agreement, kl = evaluate.fidelity(candidate.logits, teacher_logits)
    last = candidate.last_logits
    return Quality(
        role=role,
        architecture=candidate.architecture,
        images=scores.images,
        top1=scores.top1,
        top5=scores.top5,
        ece=scores.ece,
        loss=scores.loss,
        agreement=agreement,
        kl_to_teacher=kl,
        per_class=scores.per_class,
        parameters=black_boxes.parameters(candidate.network),
        macs=black_boxes.multiply_adds(candidate.network, channels=dataset.channels, image_size=dataset.image_size),
        file_bytes=candidate.file_bytes,
        train_seconds=0.0 if trained is None else trained.seconds,
        images_per_second=None if trained is None else trained.images_per_second,
        best_epoch=None if trained is None else trained.best_epoch,
        best_validation=None if trained is None else trained.best_validation,
        last_validation=None if trained is None else trained.last_validation,
        last_top1=None if last is None else evaluate.accuracy(last, labels),
    )


def _gain(student: Candidate, *, baseline: Candidate | None, spread: Spread | None, labels: Tensor) -> Estimated | None:
    if spread is not None:
        return spread.gain
    if baseline is None:
        return None
    return evaluate.paired_gain(student.logits.argmax(1) == labels, baseline.logits.argmax(1) == labels)


def helped(gain: Estimated | None) -> bool | None:
    """Whether distillation helped; None without a baseline, or where the interval of the gain holds 0."""
    if gain is None or gain.low <= 0 <= gain.high:
        return None
    return gain.value > 0


def gap_closed(quality: Mapping[str, Quality], spread: Spread | None = None) -> float | None:
    """(student - baseline) / (teacher - baseline) in top-1, of several seeds by their means.

    None without a teacher or a baseline, and when the teacher is not better than the baseline.
    """
    if not {"teacher", "baseline"} <= quality.keys():
        return None
    student, baseline = quality["student"].top1.value, quality["baseline"].top1.value
    if spread is not None and spread.baseline is not None:
        student, baseline = spread.student.value, spread.baseline.value
    lead = quality["teacher"].top1.value - baseline
    return (student - baseline) / lead if lead > 0 else None


def summary(
    student: Quality, *, gain: Estimated | None, latency: LatencyReport | None, besides: "Aside | None" = None
) -> str:
    """One sentence: whether distillation helped, by how much, and at what speed."""
    aside = besides or Aside()
    right = f"the student answers {100 * student.top1.value:.1f} % of {student.images:,} test images right"
    return f"{_helped_words(gain, right, aside)}{_speed_words(latency, gained=gain is not None)}{aside.after}."


@dataclass(frozen=True)
class Aside:
    """What the summary says of studies that are not one student under one teacher, trained once."""

    alone: str = "without its teacher"
    untold: str = "whether its teacher helped is not known, as no baseline was trained"
    over: str = ""
    judge: str = "this test"
    after: str = ""


def _alone(spec: JobSpec) -> str:
    return "on the labels alone" if isinstance(spec.method, SelfDistillationMethod) else "without the teacher"


def _aside(spec: JobSpec, quality: Mapping[str, Quality], besides: Besides) -> Aside:
    own = isinstance(spec.method, SelfDistillationMethod)
    untold = Aside.untold
    if isinstance(spec.method, DataFreeMethod):
        untold = "it has seen none but made-up images, so that there is no baseline to compare it with"
    elif own:
        untold = "whether self-distillation helped is not known, as no baseline was trained"
    return Aside(
        alone=_alone(spec) if own else Aside.alone,
        untold=untold,
        over=f", mean of {len(besides.spread.runs)} seeds" if besides.spread else "",
        judge="these seeds" if besides.spread else Aside.judge,
        after="".join(_exit_words(quality, besides.exits)),
    )


def _exit_words(quality: Mapping[str, Quality], exits: Sequence[EarlyExit]) -> Iterator[str]:
    for each in exits:
        speed = next((comparison.speedup.value for comparison in _valid(each.latency)), None)
        at = "" if speed is None else f" at {speed:.1f} times its speed"
        right = percent(quality[each.role].top1.value)
        yield f"; {role_name(each.role).lower()} (behind {each.stage}) answers {right} right{at}"


def _helped_words(gain: Estimated | None, right: str, aside: Aside) -> str:
    if gain is None:
        return f"{right[0].upper()}{right[1:]}; {aside.untold}"
    interval = f"95 % interval {points(gain.low)} to {points(gain.high)}{aside.over}"
    by = f"{points(abs(gain.value)).removeprefix('+')} points {'more' if gain.value > 0 else 'less'} than"
    if round(1000 * gain.value) == 0:
        by = "the same as"
    verdict = {
        True: "Distillation helped",
        False: "Distillation did not help",
        None: f"Distillation made no difference that {aside.judge} can tell",
    }[helped(gain)]
    return f"{verdict}: {right}, {by} {aside.alone} ({interval})"


def _speed_words(latency: LatencyReport | None, *, gained: bool) -> str:
    first = next(iter(_valid(latency)), None)
    if first is None:
        asked = latency is not None and (latency.comparisons or latency.failures)
        return "; no valid measurement of its speed was made" if asked else ""
    link = "," if gained else "; it runs"
    if first.verdict == "equivalent":
        return f"{link} at the teacher's speed ({first.place})"
    if first.verdict == "inconclusive":
        return f"; whether it is faster than the teacher could not be told ({first.place})"
    ratio = first.speedup.value
    return f"{link} at {ratio:.{1 if ratio < 20 else 0}f} times the teacher's speed ({first.place})"


def _valid(latency: LatencyReport | None) -> tuple[LatencyComparison, ...]:
    comparisons = () if latency is None else latency.comparisons
    return tuple(each for each in comparisons if each.verdict != "invalid")


def _warnings(
    quality: Mapping[str, Quality], *, gain: Estimated | None, latency: LatencyReport | None, alone: str
) -> Iterator[str]:
    teacher, student, baseline = quality.get("teacher"), quality["student"], quality.get("baseline")
    if gain is not None and gain.value <= 0:
        than = "worse than" if gain.value < 0 else "no better than"
        yield f"The student is {than} the same student trained {alone}: {points(gain.value)} points."
    if teacher is not None and baseline is not None and teacher.top1.value <= baseline.top1.value:
        yield "The teacher is no better than the baseline, so there was no gap to close; try a stronger teacher."
    if student.images < FEW_IMAGES:
        yield f"Only {student.images} test images: differences of a few points cannot be told from chance."
    for each in quality.values():
        if each.best_validation is not None and each.best_validation <= 1 / max(2, len(each.per_class)):
            yield f"The {role_name(each.role).lower()} did no better than guessing on the validation images."
    if latency is not None:
        yield from _speed_warnings(latency)


def _speed_warnings(latency: LatencyReport) -> Iterator[str]:
    for comparison in latency.comparisons:
        if comparison.verdict in _SPEED_WARNINGS:
            yield f"{_SPEED_WARNINGS[comparison.verdict]} ({comparison.place})."
        for row in comparison.rows:
            if row.degraded:
                lost = f"{100 * row.accuracy_lost:.1f} points of accuracy"
                yield f"The {row.model} loses {lost} in this runtime ({comparison.place})."
    for failure in latency.failures:
        yield f"The speed could not be measured ({failure.place}): {failure.detail}"


def _curves(role: str, candidate: Candidate) -> Iterator[Curve]:
    for name, values in ({} if candidate.trained is None else candidate.trained.history).items():
        kept = thinned(values)
        yield Curve(
            key=f"{candidate.run or RUNS.get(role, role)}/{name}",
            steps=tuple(step for step, _ in kept),
            values=tuple(value if math.isfinite(value) else None for _, value in kept),
        )


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most 500 of the points, evenly spaced, the first and the last among them."""
    if len(curve) <= CURVE_POINTS:
        return list(curve)
    return [curve[round(place * (len(curve) - 1) / (CURVE_POINTS - 1))] for place in range(CURVE_POINTS)]


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "channels": dataset.channels,
        "image_size": dataset.image_size,
        **_sizes_of_open_splits(dataset),
        "test_images": len(dataset.test),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "sha256": dataset.sha256,
        "notes": list(dataset.notes),
    }


def _sizes_of_open_splits(dataset: Dataset) -> dict[str, int]:
    """Images of the splits that were learned from; a data-free job must not even count them."""
    if isinstance(dataset.train, SealedSplit):
        return {}
    return {"train_images": len(dataset.train), "validation_images": len(dataset.validation)}
