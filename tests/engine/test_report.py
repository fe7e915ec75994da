"""The report says what the numbers say: helped, not helped, or no telling; and warns where a reader would be misled."""

import math

import pytest
import torch
from torch import Tensor, nn

from distillery.report import (
    EarlyExit,
    Estimated,
    LatencyComparison,
    LatencyReport,
    LatencyRow,
    Percentile,
    Report,
    SeedRun,
    Verdict,
)
from distillery.spec import JobSpec, parse, resolve
from engine.data.dataset import Dataset, Split
from engine.loop import Trained
from engine.report import CURVE_POINTS, Besides, Candidate, assemble, thinned
from engine.spread import spread

IMAGES = 600
CLASSES = ("cat", "dog", "eel")


def _split(n: int, *, first: int) -> Split:
    generator = torch.Generator().manual_seed(first)
    return Split(
        images=torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator),
        labels=torch.arange(n) % 3,
        ids=torch.arange(first, first + n),
    )


DATASET = Dataset(
    name="animals", classes=CLASSES, channels=1, image_size=8, mean=(0.5,), std=(0.25,),
    train=_split(30, first=0), validation=_split(12, first=1000), test=_split(IMAGES, first=2000),
    sha256="a" * 64, notes=("drawn by hand",),
)  # fmt: skip
USUAL = {
    "name": "animals",
    "dataset": {"name": "digits"},
    "student": {"architecture": "seed_student"},
    "training": {"seed": 1},
}
SPEC = resolve(parse({**USUAL, "teacher": {"architecture": "seed_teacher", "train": {"epochs": 1}}}))
ALONE = resolve(parse({**USUAL, "method": {"strategy": "self_distillation"}}))
DATA_FREE = resolve(
    parse(
        {
            **USUAL,
            "teacher": {"architecture": "seed_teacher", "weights": "teacher.safetensors"},
            "method": {"strategy": "data_free"},
        }
    )
)


def _answers(right: int) -> Tensor:
    """Logits [600, 3] of which the first `right` are right."""
    labels = DATASET.test.labels
    answer = torch.where(torch.arange(IMAGES) < right, labels, (labels + 1) % 3)
    return nn.functional.one_hot(answer, 3).float() * 4


def _trained(history: dict[str, list[tuple[int, float]]] | None = None) -> Trained:
    return Trained(
        best={}, best_epoch=2, best_validation=0.9, last={}, last_validation=0.8, steps=40, seconds=12.5,
        images_per_second=321.0, history=history or {"loss": [(10, 1.0), (20, 0.5)]},
    )  # fmt: skip


def _candidate(right: int, *, width: int = 2, trained: Trained | None = None) -> Candidate:
    network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.Flatten(), nn.Linear(64 * width, 3))
    return Candidate(
        architecture=f"net{width}",
        network=network,
        logits=_answers(right),
        last_logits=_answers(right - 6),
        file_bytes=1000 * width,
        trained=trained or _trained(),
    )


def _row(model: str, seconds: float) -> LatencyRow:
    told = Percentile(seconds=seconds, low=0.98 * seconds, high=1.02 * seconds)
    return LatencyRow(
        model=model, runtime="eager", device="cpu", batch_size=1, threads=1, n=390, p50=told, p90=told, p95=told,
        p99=Percentile(seconds=None, reason="10 calls; a 95 % interval for p99 needs 368."), mean_seconds=seconds,
        stdev_seconds=0.1 * seconds, images_per_second=1 / seconds, parameters=10, macs=20, file_bytes=30,
        peak_memory_bytes=None, cold_start_seconds=2 * seconds, warmup_calls=30, warmup_steady=True, accuracy=0.9,
        agreement=1.0,
    )  # fmt: skip


def _latency(*verdicts: Verdict, value: float = 5.0) -> LatencyReport:
    comparisons = tuple(
        LatencyComparison(
            runtime="eager", device="cpu", batch_size=1 + place, threads=1, rounds=30,
            speedup=Estimated(value=value + place, low=value - 0.2, high=value + 0.2),
            control=Estimated(value=1.0, low=0.99, high=1.01), verdict=verdict,
            rows=(_row("teacher", 0.005), _row("student", 0.001)),
        )
        for place, verdict in enumerate(verdicts)
    )  # fmt: skip
    return LatencyReport(
        protocol="p", comparisons=comparisons, environment={}, weights_sha256={"teacher": "a"}, repeat_with="c"
    )


def _report(student: int, baseline: int | None, *, teacher: int = 580, latency: LatencyReport | None = None) -> Report:
    return assemble(
        _candidate(student),
        teacher=_candidate(teacher, width=8),
        baseline=None if baseline is None else _candidate(baseline),
        dataset=DATASET,
        spec=SPEC,
        latency=latency,
        warnings=("noticed before",),
    )


def test_a_clear_gain_is_said_to_have_helped() -> None:
    report = _report(560, 520)
    assert report.helped is True
    assert report.gain is not None
    assert report.gain.value == pytest.approx(40 / 600)
    assert report.gain.low > 0
    assert report.gap_closed == pytest.approx(40 / 60)
    assert report.summary.startswith("Distillation helped: the student answers 93.3 % of 600 test images right")
    assert "6.7 points more than without its teacher" in report.summary
    assert report.warnings == ("noticed before",)


def test_a_clear_loss_is_said_not_to_have_helped_and_warned_about() -> None:
    report = _report(500, 540)
    assert report.helped is False
    assert report.summary.startswith("Distillation did not help: ")
    assert "6.7 points less than without its teacher" in report.summary
    assert report.gap_closed == pytest.approx(-1.0)
    assert any(
        "worse than the same student trained without the teacher: \N{MINUS SIGN}6.7 points" in each
        for each in report.warnings
    )


@pytest.mark.parametrize(
    ("student", "words"), [(521, "0.2 points more"), (519, "0.2 points less"), (520, "the same as")]
)
def test_a_difference_within_the_uncertainty_is_no_difference(student: int, words: str) -> None:
    report = _report(student, 520)
    assert report.helped is None
    assert report.summary.startswith("Distillation made no difference that this test can tell")
    assert words in report.summary
    assert any("trained without the teacher" in each for each in report.warnings) == (student <= 520)


def test_without_a_baseline_nothing_is_claimed_about_the_teacher() -> None:
    report = _report(560, None)
    assert (report.helped, report.gain, report.gap_closed) == (None, None, None)
    assert "whether its teacher helped is not known" in report.summary
    assert [each.role for each in report.quality] == ["teacher", "student"]


def test_no_gap_can_be_closed_when_the_teacher_is_no_better_than_the_baseline() -> None:
    report = _report(560, 540, teacher=540)
    assert report.gap_closed is None
    assert any("no gap to close" in each for each in report.warnings)


@pytest.mark.parametrize(
    ("verdict", "words", "warned"),
    [
        ("faster", ", at 5.0 times the teacher's speed (eager, batch 1, cpu).", False),
        ("slower", ", at 5.0 times the teacher's speed", True),
        ("equivalent", ", at the teacher's speed (eager, batch 1, cpu).", False),
        ("inconclusive", "whether it is faster than the teacher could not be told", True),
        ("invalid", "no valid measurement of its speed was made", True),
    ],
)
def test_the_summary_ends_with_the_speed_that_was_measured(verdict: Verdict, words: str, warned: bool) -> None:
    report = _report(560, 520, latency=_latency(verdict))
    assert words in report.summary
    assert report.summary.count(". ") == 0
    assert (len(report.warnings) > 1) == warned


def test_where_no_speedup_was_asked_for_the_summary_does_not_miss_it() -> None:
    served_only = _latency("faster").model_copy(update={"comparisons": ()})
    report = _report(560, 520, latency=served_only)
    assert "speed" not in report.summary
    assert report.speedup is None


def test_the_speedup_is_that_of_the_first_comparison_that_is_not_invalid() -> None:
    report = _report(560, 520, latency=_latency("invalid", "faster", "faster"))
    assert report.speedup is not None
    assert report.speedup.value == 6.0
    assert "batch 2" in report.summary
    assert _report(560, 520, latency=_latency("invalid")).speedup is None


def test_quality_tells_each_network_apart() -> None:
    report = _report(560, 520)
    teacher, student, baseline = report.quality
    assert [each.role for each in report.quality] == ["teacher", "student", "baseline"]
    assert (teacher.agreement, teacher.kl_to_teacher) == (None, None)
    assert student.agreement == pytest.approx(580 / 600)
    assert student.top1.low < student.top1.value < student.top1.high
    assert student.parameters == 2 * 9 + 2 + 128 * 3 + 3
    assert student.macs == 64 * 18 + 128 * 3
    assert teacher.file_bytes == 8000
    assert (student.best_epoch, student.best_validation, student.last_validation) == (2, 0.9, 0.8)
    assert student.last_top1 == pytest.approx(554 / 600)
    assert set(baseline.per_class) == set(CLASSES)


def test_a_teacher_that_was_not_trained_here_has_no_training_figures() -> None:
    given = Candidate(architecture="net", network=_candidate(1).network, logits=_answers(580), file_bytes=1)
    report = assemble(
        _candidate(560), teacher=given, baseline=None, dataset=DATASET, spec=SPEC, latency=None, warnings=()
    )
    teacher = report.quality[0]
    assert (teacher.best_epoch, teacher.images_per_second, teacher.last_top1) == (None, None, None)
    assert {curve.key for curve in report.curves} == {"training/loss"}


def test_curves_are_named_by_phase_and_gaps_stand_where_values_were_not_finite() -> None:
    history = {"loss": [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)]}
    report = assemble(
        _candidate(560, trained=_trained(history)),
        teacher=_candidate(580, width=8),
        baseline=_candidate(520),
        dataset=DATASET,
        spec=SPEC,
        latency=None,
    )
    curves = {curve.key: curve for curve in report.curves}
    assert set(curves) == {"teaching/loss", "training/loss", "baseline/loss"}
    assert curves["training/loss"].values == (2.0, None, None, 1.0)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(step, float(step)) for step in range(12_345)]
    kept = thinned(points)
    assert len(kept) == CURVE_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(set(kept))
    assert thinned(points[:10]) == points[:10]


def test_the_report_carries_its_data_spec_and_worst_disagreements() -> None:
    report = _report(560, 520)
    assert report.dataset["test_images"] == IMAGES
    assert report.dataset["sha256"] == "a" * 64
    assert report.spec == SPEC.model_dump(mode="json")
    assert report.environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert report.disagreements
    assert all(each.teacher != each.student for each in report.disagreements)


def test_few_test_images_are_warned_about() -> None:
    few = Split(DATASET.test.images[:60], DATASET.test.labels[:60], DATASET.test.ids[:60])
    dataset = Dataset(**{**vars(DATASET), "test": few})
    cut = [
        Candidate(architecture="n", network=_candidate(1).network, logits=_answers(right)[:60], file_bytes=1)
        for right in (50, 55)
    ]
    report = assemble(cut[0], teacher=cut[1], baseline=None, dataset=dataset, spec=SPEC, latency=None)
    assert any("Only 60 test images" in each for each in report.warnings)


def _study(
    besides: Besides,
    *,
    spec: JobSpec = SPEC,
    teacher: int | None = 580,
    baseline: int | None = 520,
    history: dict[str, list[tuple[int, float]]] | None = None,
) -> Report:
    return assemble(
        _candidate(560, trained=_trained(history)),
        teacher=None if teacher is None else _candidate(teacher, width=8),
        baseline=None if baseline is None else _candidate(baseline),
        dataset=DATASET,
        spec=spec,
        latency=None,
        besides=besides,
    )


def test_over_several_seeds_the_gain_is_that_of_the_runs() -> None:
    runs = [SeedRun(seed=seed, student=0.9, baseline=0.88 - 0.001 * seed) for seed in (1, 2, 3)]
    report = _study(Besides(spread=spread(runs)))
    assert report.seeds == spread(runs)
    assert report.gain == spread(runs).gain
    assert report.helped is True
    assert "2.2 points more than without its teacher (95 % interval +2.0 to +2.4, mean of 3 seeds)" in report.summary


def test_seeds_without_a_baseline_claim_no_gain() -> None:
    runs = [SeedRun(seed=seed, student=0.9, baseline=None) for seed in (1, 2)]
    report = _study(Besides(spread=spread(runs)), baseline=None)
    assert (report.helped, report.gain, report.gap_closed) == (None, None, None)
    assert "whether its teacher helped is not known" in report.summary


def test_members_and_assistants_have_rows_and_curves_of_their_own() -> None:
    member = Candidate(**{**vars(_candidate(570, width=4)), "run": "teaching1"})
    assistant = Candidate(**{**vars(_candidate(565, width=3)), "run": "assisting1"})
    report = _study(Besides(others={"teacher1": member, "assistant1": assistant}))
    assert [each.role for each in report.quality] == ["teacher", "student", "baseline", "teacher1", "assistant1"]
    assert {curve.key for curve in report.curves} >= {"teaching1/loss", "assisting1/loss", "training/loss"}
    told = {each.role: each for each in report.quality}
    assert told["assistant1"].agreement == pytest.approx((600 - 15) / 600)
    assert told["teacher1"].architecture == "net4"


@pytest.mark.parametrize("baseline", [520, None])
def test_a_self_distilled_student_is_told_of_without_a_teacher(baseline: int | None) -> None:
    early = Candidate(architecture="net2", network=_candidate(1).network, logits=_answers(480), file_bytes=1)
    exits = (EarlyExit(role="exit1", stage="layer1", latency=_latency("invalid", "faster", value=1.5)),)
    report = _study(Besides(others={"exit1": early}, exits=exits), spec=ALONE, teacher=None, baseline=baseline)
    assert report.exits == exits
    assert report.disagreements == ()
    assert (report.gap_closed, report.speedup) == (None, None)
    assert all(each.agreement is None and each.kl_to_teacher is None for each in report.quality)
    assert report.summary.endswith("; exit 1 (behind layer1) answers 80.0 % right at 2.5 times its speed.")
    words = "more than on the labels alone" if baseline else "whether self-distillation helped is not known"
    assert words in report.summary
    assert "teacher" not in report.summary


def test_a_worse_self_distilled_student_is_warned_about_without_naming_a_teacher() -> None:
    report = _study(Besides(), spec=ALONE, teacher=None, baseline=580)
    assert any("the same student trained on the labels alone: " in each for each in report.warnings)
    assert not any("teacher" in each for each in report.warnings)


def test_a_data_free_report_shows_its_images_and_says_why_there_is_no_baseline() -> None:
    sheet = "data:image/png;base64,iVBORw0KGgo="
    report = _study(Besides(synthetic=sheet), spec=DATA_FREE, baseline=None)
    assert report.synthetic == sheet
    assert "it has seen none but made-up images" in report.summary
    assert (report.helped, report.gain) == (None, None)
    assert Report.model_validate_json(report.model_dump_json()) == report
