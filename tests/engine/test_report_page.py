"""The page is one file that needs nothing else, whatever the names in it try."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from distillery.report import (
    Curve,
    Disagreement,
    Estimated,
    LatencyComparison,
    LatencyReport,
    LatencyRow,
    Percentile,
    Quality,
    Report,
)  # fmt: skip
from engine import figures, plots
from engine.report_page import MOST_CLASSES, render

HOSTILE = "<script>alert('x')</script>\"><img src=https://example.org/x.png onerror=alert(1)>"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def _quality(role: str, top1: float, *, classes: tuple[str, ...]) -> Quality:
    return Quality(
        role=role, architecture="seed_student", images=360,
        top1=Estimated(value=top1, low=top1 - 0.02, high=top1 + 0.02),
        top5=None, ece=0.01, loss=0.2, agreement=None if role == "teacher" else 0.97,
        kl_to_teacher=None if role == "teacher" else 0.05,
        per_class={name: top1 - 0.01 * place for place, name in enumerate(classes)},
        parameters=620_362, macs=1_000_000, file_bytes=2_500_000, train_seconds=61.0, images_per_second=1234.5,
        best_epoch=3, best_validation=0.96, last_validation=0.95, last_top1=0.95,
    )  # fmt: skip


def _report(
    *, name: str = "digits", classes: tuple[str, ...] = ("zero", "one"), thumbnail: str = PIXEL, curves: bool = True
) -> Report:
    drawn = (
        Curve(key="teaching/validation/accuracy", steps=(10, 20), values=(0.5, 0.9)),
        Curve(key="training/validation/accuracy", steps=(10, 20, 30), values=(0.4, None, 0.95)),
        Curve(key="training/loss", steps=(10, 20, 30), values=(2.0, None, None)),
    )
    return Report(
        summary=f"Distillation helped: {name}.", helped=True, gain=Estimated(value=0.02, low=0.01, high=0.03),
        gap_closed=0.5, speedup=None, warnings=(f"Beware of {name}.",),
        quality=(
            _quality("teacher", 0.97, classes=classes), _quality("student", 0.96, classes=classes),
            _quality("baseline", 0.94, classes=classes),
        ),
        disagreements=(
            Disagreement(image_id=7, label=classes[0], teacher=name, student=classes[1], kl=1.5, thumbnail=thumbnail),
        ),
        curves=drawn if curves else (), latency=None, dataset={"name": name, "test_images": 360, "notes": [name]},
        environment={"cpu": name, "versions": {"torch": "2"}, "memory_bytes": 25_000_000_000},
        spec={"name": name, "labels": {"a": name}},
    )  # fmt: skip


def _latency(*devices: str) -> LatencyReport:
    def row(model: str, device: str, seconds: float) -> LatencyRow:
        told = Percentile(seconds=seconds, low=0.9 * seconds, high=1.1 * seconds)
        return LatencyRow(
            model=model, runtime="eager", device=device, batch_size=8, threads=1, n=270, p50=told, p90=told, p95=told,
            p99=Percentile(seconds=None, reason="270 calls; a 95 % interval for p99 needs 368."), mean_seconds=seconds,
            stdev_seconds=seconds, images_per_second=8 / seconds, parameters=1, macs=1, file_bytes=1_500_000,
            peak_memory_bytes=None, cold_start_seconds=1.5, warmup_calls=1, warmup_steady=False, accuracy=0.9,
            agreement=1.0,
        )  # fmt: skip

    return LatencyReport(
        protocol="p", environment={}, teacher_sha256="a", student_sha256="b", repeat_with="repeat <this>",
        notes=("a general note",),
        comparisons=tuple(
            LatencyComparison(
                runtime="eager", device=device, batch_size=8, threads=1, rounds=30, verdict="faster",
                speedup=Estimated(value=4.0, low=3.9, high=4.1), control=Estimated(value=1, low=0.99, high=1.01),
                rows=(row("teacher", device, 0.0123456), row("student", device, 0.003)),
                notes=("one note.", "two notes."),
            )
            for device in devices
        ),
    )  # fmt: skip


class Addresses(HTMLParser):
    """Collects elements and everything that a browser would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


@pytest.mark.parametrize("name", ["digits", HOSTILE])
def test_the_page_fetches_nothing_and_runs_nothing(name: str) -> None:
    page = render(_report(name=name, classes=(HOSTILE, "one")))
    seen = Addresses(page)
    assert "script" not in seen.tags
    assert seen.handlers == []
    assert seen.fetched == [PIXEL]
    assert not re.search(r"url\(|@import|javascript:", page)
    assert "default-src 'none'" in page


def test_names_are_shown_as_they_are() -> None:
    page = render(_report(name="a <b> & c", classes=("x<y", "z")))
    assert "a &lt;b&gt; &amp; c" in page
    assert "x&lt;y" in page
    assert "<b> & c" not in page


def test_a_thumbnail_that_is_no_png_is_left_out() -> None:
    page = render(_report(thumbnail="https://example.org/tracker.png"))
    assert "example.org" not in page
    assert "Where student and teacher differ most" not in page


def test_every_plot_is_well_formed_and_named_for_those_who_cannot_see_it() -> None:
    page = render(_report(classes=("a&b", "c<d")).model_copy(update={"latency": _latency("cpu")}))
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    named = [ElementTree.fromstring(each) for each in drawings if 'role="img"' in each]  # noqa: S314  # our own text
    assert [each.get("aria-label") for each in named] == [
        "Test accuracy with 95 % intervals",
        "Difference in accuracy by class",
        "Validation accuracy",
        "Training loss",
        "Speed-up with 95 % intervals",
        "Time of one call",
    ]
    assert not re.search(r"\bnan\b|\binf\b|None", "".join(drawings))


def test_a_report_without_curves_baseline_or_latency_still_makes_a_page() -> None:
    report = _report(curves=False)
    bare = report.model_copy(update={"quality": report.quality[:2], "gain": None, "gap_closed": None, "helped": None})
    page = render(bare)
    assert "Gain from the teacher" not in page
    assert "<h2>Training</h2>" not in page
    assert "Student minus teacher, class by class" in page


def test_of_many_classes_those_that_differ_most_are_shown() -> None:
    classes = tuple(f"class {number}" for number in range(100))
    report = _report(classes=classes)
    student = report.quality[1].model_copy(
        update={"per_class": {name: 0.94 + 0.001 * place for place, name in enumerate(classes)}}
    )
    page = render(report.model_copy(update={"quality": (report.quality[0], student, report.quality[2])}))
    assert f"The {100 - MOST_CLASSES} classes that differ least are left out." in page
    assert "class 99</text>" in page
    assert "class 0</text>" not in page


def test_latency_is_told_with_units_reasons_and_notes() -> None:
    page = render(_report().model_copy(update={"latency": _latency("cpu")}))
    assert "12.346" in page
    assert 'title="270 calls; a 95 % interval for p99 needs 368."' in page
    assert "<b>eager, batch 8, cpu:</b> one note. two notes." in page
    assert "a general note" in page
    assert "repeat &lt;this&gt;" in page
    assert "eager · 8<" in page
    assert "eager · 8 · cuda<" in render(_report().model_copy(update={"latency": _latency("cpu", "cuda")}))


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
        (figures.duration(61), "61.0 s"),
        (figures.duration(600), "10.0 min"),
    ],
)
def test_figures_read_well(told: str, expected: str) -> None:
    assert told == expected
