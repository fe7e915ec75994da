"""The page is one file that needs nothing else, whatever the names in it try."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from distillery.report import (
    Curve,
    Disagreement,
    EarlyExit,
    Estimated,
    Input,
    LatencyComparison,
    LatencyReport,
    LatencyRow,
    Percentile,
    Quality,
    Report,
    RunForms,
    SeedRun,
    ServedRate,
    ServerResult,
    Stages,
    Sweep,
    SweepPoint,
    Verdict,
)
from engine import figures, plots
from engine.report_page import MOST_CLASSES, render
from engine.spread import spread

HOSTILE = "<script>alert('x')</script>\"><img src=https://example.org/x.png onerror=alert(1)>"
CSP = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
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


def _latency(*devices: str, verdict: Verdict = "faster") -> LatencyReport:
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
        protocol="p", environment={}, weights_sha256={"teacher": "a"}, repeat_with="repeat <this>",
        notes=("a general note",),
        comparisons=tuple(
            LatencyComparison(
                runtime="eager", device=device, batch_size=8, threads=1, rounds=30, verdict=verdict,
                speedup=Estimated(value=4.0, low=3.9, high=4.1), control=Estimated(value=1, low=0.99, high=1.01),
                rows=(row("teacher", device, 0.0123456), row("student", device, 0.003)),
                notes=("one note.", "two notes."),
            )
            for device in devices
        ),
    )  # fmt: skip


def _scenarios(*inputs: Input) -> LatencyReport:
    """Sweeps and servers of both networks; the student's server was given up at one rate."""

    def sweep(model: str, given: Input, rate: float) -> Sweep:
        points = tuple(
            SweepPoint(
                batch_size=size, p50_seconds=0.0012345 * size,
                images_per_second=Estimated(value=rate * size**0.5, low=0.9 * rate, high=3 * rate),
            )
            for size in (1, 2, 4)
        )  # fmt: skip
        return Sweep(
            model=model, runtime="eager", device="cpu", threads=1, input=given, rounds=12, points=points,
            best_batch_size=2, stopped_by="memory", stopped="A batch of 8 does <not> fit.", notes=("a sweeping note",),
        )  # fmt: skip

    def rate(each: float, *, p99: float | None) -> ServedRate:
        told = Percentile(seconds=p99, low=p99 and 0.9 * p99, high=p99 and 1.2 * p99, reason="" if p99 else "given up")
        return ServedRate(
            requests_per_second=each, n=4321, cut_short=p99 is None, utilisation=0.5, p50=told, p95=told, p99=told,
            met=p99 is not None and p99 <= 0.02,
        )  # fmt: skip

    stages = Stages(decode_seconds=1e-4, prepare_seconds=2e-5, compute_seconds=5e-3)

    def server(model: str, given: Input, *rates: ServedRate) -> ServerResult:
        met = [each.requests_per_second for each in rates if each.met]
        return ServerResult(
            model=model, runtime="eager", device="cpu", threads=1, input=given, objective_seconds=0.02,
            service_seconds=0.005, highest_rate=max(met, default=None), lowest_missed=1234.5, rates=rates,
            stages=None if given == "model" else stages,
            notes=("a serving note",),
        )  # fmt: skip

    return LatencyReport(
        protocol="p", environment={}, weights_sha256={}, repeat_with="-", comparisons=(),
        sweeps=tuple(sweep(model, given, 100.0) for given in inputs for model in ("teacher", "student")),
        servers=tuple(
            each
            for given in inputs
            for each in (
                server("teacher", given, rate(30, p99=0.03)),
                server("student", given, rate(400, p99=0.01), rate(600, p99=0.0123456), rate(1234.5, p99=None)),
            )
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
    assert CSP in page


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


def test_sweeps_and_servers_have_a_panel_for_each_input_and_none_without_them() -> None:
    assert "Throughput and load" not in render(_report().model_copy(update={"latency": _latency("cpu")}))
    page = render(_report().model_copy(update={"latency": _scenarios("model", "end_to_end")}))
    assert "eager on cpu, network alone" in page
    assert "eager on cpu, from encoded bytes" in page
    assert page.count('aria-label="Throughput by batch size"') == 2
    assert page.count('aria-label="Latency by rate of requests"') == 2
    assert "A batch of 8 does &lt;not&gt; fit." in page
    assert page.count(">best</span>") == 4
    assert "Highest rate 600.0 requests/s; 1,234.5 missed." in page
    assert "No rate tried keeps to the objective." in page
    assert ">given up</span>" in page
    assert 'title="given up"' in page
    assert "dashed, the objective of 20.0 ms" in page
    assert "One image takes 100 µs to decode, 20.0 µs to prepare, 5.00 ms to compute." in page
    assert page.count("One image takes") == 2
    assert "<li>teacher and student: a serving note</li>" in page
    (sweep_plot, *_), (server_plot, *_) = (
        re.findall(rf'<svg [^>]*aria-label="{title}">.*?</svg>', page, flags=re.DOTALL)
        for title in ("Throughput by batch size", "Latency by rate of requests")
    )
    for plot, marks in ((sweep_plot, 6), (server_plot, 3)):  # the rate that was given up has no p99 to show
        assert ElementTree.fromstring(plot) is not None  # noqa: S314  # our own text
        assert plot.count('class="mark ') == plot.count('class="interval ') == marks
        assert not re.search(r"nan|inf|None", plot.replace("interval", ""))
    assert sweep_plot.count("reference") == 0
    assert server_plot.count('class="reference"') == 1


def test_a_sweep_without_points_and_a_server_without_rates_are_told_in_words() -> None:
    told = _scenarios("model")
    sweep = told.sweeps[0].model_copy(update={"points": (), "best_batch_size": None})
    server = told.servers[0].model_copy(update={"rates": (), "lowest_missed": None})
    page = render(
        _report().model_copy(update={"latency": told.model_copy(update={"sweeps": (sweep,), "servers": (server,)})})
    )
    assert "A batch of 8 does &lt;not&gt; fit." in page
    assert "No rate tried keeps to the objective." in page
    assert "Throughput by batch size" not in page


def test_a_comparison_from_bytes_is_told_apart() -> None:
    told = _latency("cpu")
    (alone,) = told.comparisons
    whole = alone.model_copy(update={"input": "end_to_end"})
    page = render(_report().model_copy(update={"latency": told.model_copy(update={"comparisons": (alone, whole)})}))
    assert "eager · 8<" in page
    assert "eager · 8 · bytes<" in page
    assert "<th>eager from bytes</th>" in page
    assert "<b>eager, batch 8, cpu, from encoded bytes:</b> one note." in page


def test_without_a_comparison_there_is_nothing_of_a_speedup_but_how_to_repeat() -> None:
    page = render(_report().model_copy(update={"latency": _scenarios("model")}))
    assert "Speed-up, by runtime and batch size" not in page
    assert "Calls, in milliseconds" not in page
    assert "To measure again" in page


def _curve(key: str, *values: float | None) -> Curve:
    return Curve(key=key, steps=tuple(10 * place for place in range(1, len(values) + 1)), values=values)


def _with(report: Report, *roles: str, **changes: object) -> Report:
    """The report with these networks alone."""
    quality = tuple(_quality(role, 0.9, classes=("zero", "one")) for role in roles)
    return report.model_copy(update={"quality": quality, "disagreements": (), "gap_closed": None, **changes})


def _rows(page: str) -> dict[str, list[str]]:
    """The cells of every table row by its first cell, without mark-up; of equal ones the last."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, flags=re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in rows]
    plain = [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in cells]
    return {row[0]: row[1:] for row in plain}


def _drawn(page: str, title: str) -> list[str]:
    """The classes of the lines in a plot."""
    plot = re.search(rf'<svg [^>]*aria-label="{title}">(.*?)</svg>', page, flags=re.DOTALL)
    return [] if plot is None else re.findall(r'<path class="line (\w+)"', plot[1])


SPREAD = spread(
    [SeedRun(seed=seed, student=0.9 + 0.01 * seed, baseline=0.88 + 0.004 * seed * seed) for seed in (7, 8, 9)]
)
TERMS = tuple(
    curve
    for name, raw, weight, shares in (
        ("soft_targets", 1.25, 0.9, (0.9, 0.8)), ("cross_entropy", 0.5, 0.1, (0.1, 0.1996)),
        ("hint", 2.0, 1e-6, (0.0, 0.0004)),
    )
    for curve in (
        _curve(f"training/loss/{name}", 3.0, raw), _curve(f"training/weighted/{name}", 2.0, weight * raw),
        _curve(f"training/share/{name}", *shares),
    )
)  # fmt: skip
OBJECTIVE = [
    {"term": "cross_entropy", "weight": 0.1, "warmup_epochs": 0.0},
    {"term": "soft_targets", "weight": 0.9, "warmup_epochs": 5.0},
    {"term": "hint", "weight": 1e-6},
]


def test_all_roles_stand_in_their_order_under_good_names() -> None:
    spec = {"teacher": {"members": [{"architecture": "a"}] * 3, "merge": "mean_logits"}}
    roles = ("teacher", "student", "baseline", "assistant1", "teacher10", "teacher2", "exit1")
    page = render(_with(_report(), *roles, spec=spec, exits=(EarlyExit(role="exit1", stage="layer1", latency=None),)))
    heads = next(heads for first, heads in _rows(page).items() if first == "" and "Baseline" in heads)
    assert heads == ["Teacher", "Teacher 2", "Teacher 10", "Assistant 1", "Student", "Exit 1", "Baseline"]
    assert "<th>Teacher (3 networks, mean_logits)<br><small>seed_student</small></th>" in page
    assert "<th>Exit 1<br><small>behind layer1</small></th>" in page
    online = render(_with(_report(), *roles, spec={**spec, "method": {"strategy": "online"}}))
    assert "<th>Teacher (the first of 3)<br>" in online


def test_an_ensemble_is_named_by_its_members_counted() -> None:
    report = _report()
    teacher = report.quality[0].model_copy(update={"architecture": "resnet56 + wrn_40_2 + resnet56"})
    page = render(report.model_copy(update={"quality": (teacher, *report.quality[1:])}))
    assert "<small>2 \N{MULTIPLICATION SIGN} resnet56 + wrn_40_2</small>" in page


@pytest.mark.parametrize("roles", [("student", "baseline"), ("teacher", "student"), ("student",)])
def test_a_page_without_teacher_or_baseline_speaks_of_neither(roles: tuple[str, ...]) -> None:
    gain = Estimated(value=0.02, low=0.01, high=0.03) if "baseline" in roles else None
    spec = {"teacher": None, "method": {"strategy": "self_distillation"}}
    page = render(_with(_report(), *roles, gain=gain, helped=None, spec=spec))
    assert ("Agreement with the teacher" in page) == ("teacher" in roles)
    assert ("Gain from self-distillation" in page) == ("baseline" in roles)
    assert "Gain from the teacher" not in page
    assert "Gap closed" not in page
    assert (">Smaller<" in page) == ("teacher" in roles)
    assert ("class by class" in page) == (len(roles) > 1)
    assert "None" not in page


def test_seeds_are_told_one_by_one_and_together() -> None:
    assert "<h2>Seeds</h2>" not in render(_report())
    page = render(_report().model_copy(update={"seeds": SPREAD, "gain": SPREAD.gain}))
    rows = _rows(page)
    for run in SPREAD.runs:
        assert run.baseline is not None
        told = [figures.percent(run.student), figures.percent(run.baseline), figures.points(run.student - run.baseline)]
        assert rows[str(run.seed)] == told
    assert SPREAD.gain is not None
    assert SPREAD.baseline is not None
    assert SPREAD.baseline_stdev is not None
    gain = figures.points(SPREAD.gain.value)
    assert rows["Mean"] == [figures.percent(SPREAD.student.value), figures.percent(SPREAD.baseline.value), gain]
    assert rows["Standard deviation"][:2] == [
        figures.deviation(SPREAD.student_stdev),
        figures.deviation(SPREAD.baseline_stdev),
    ]
    interval = f"95 % interval {figures.points(SPREAD.gain.low)} to {figures.points(SPREAD.gain.high)}"
    assert f"Mean gain <b>{gain} points</b>, {interval}." in page
    assert f"{interval}, mean of 3 seeds" in page
    assert "Student's t with 2 degrees of freedom" in page
    assert 'aria-label="Difference of student and baseline by seed"' in page


def test_seeds_without_a_baseline_have_no_column_for_it() -> None:
    alone = spread([run.model_copy(update={"baseline": None}) for run in SPREAD.runs])
    page = render(_with(_report(), "teacher", "student", seeds=alone, gain=None, helped=None))
    assert _rows(page)["7"] == ["97.0 %"]
    assert "Mean gain" not in page
    assert 'aria-label="Accuracy of the student by seed"' in page


def test_terms_are_told_with_weight_values_and_share_and_the_dead_one_is_marked() -> None:
    spec = {"method": {"strategy": "offline", "objective": OBJECTIVE}}
    page = render(_report(curves=False).model_copy(update={"curves": TERMS, "spec": spec}))
    rows = _rows(page)
    assert rows["cross_entropy"] == ["0.1", "0.5", "0.05", "15.0 %"]
    assert rows["soft_targets"] == ["0.9, rising over 5 epochs", "1.25", "1.125", "85.0 %"]
    assert rows["hint  dead"] == ["1e-6", "2", "2e-6", "0.02 %"]
    assert page.count('<span class="dead">') == 1
    # In the order of the spec, each with a stroke of its own, and so in the legend.
    assert _drawn(page, "Share of the gradient by term") == ["tone1", "tone2", "tone3"]
    assert re.findall(r'class="line (tone\d)" d="M0 7H34"/></svg>(\w+)<', page) == [
        ("tone1", "cross_entropy"), ("tone2", "soft_targets"), ("tone3", "hint"),
    ]  # fmt: skip


def test_one_term_alone_is_not_worth_a_section() -> None:
    page = render(_report(curves=False).model_copy(update={"curves": TERMS[:3]}))
    assert "What each term contributed" not in page


def test_of_an_online_study_the_terms_of_the_student_are_told() -> None:
    taught = _curve("training/loss/teacher/cross_entropy", 1.0, 0.1)
    page = render(_report(curves=False).model_copy(update={"curves": (*TERMS, taught)}))
    assert "teacher/cross_entropy" not in page
    assert _rows(page)["cross_entropy"][0] == figures.NONE


def test_self_distillation_names_its_weights_itself() -> None:
    method = {"strategy": "self_distillation", "hard_weight": 0.7, "soft_weight": 0.3, "hint_weight": 1e-6}
    page = render(_report(curves=False).model_copy(update={"curves": TERMS, "spec": {"method": method}}))
    assert [_rows(page)[name][0] for name in ("cross_entropy", "soft_targets", "hint  dead")] == ["0.7", "0.3", "1e-6"]


def test_more_terms_than_strokes_are_all_in_the_table_and_the_largest_in_the_plot() -> None:
    curves = []
    for number in range(10):
        curves += [
            _curve(f"training/loss/t{number}", 1.0, 1.0),
            _curve(f"training/share/t{number}", *[number / 45] * 2),
        ]
    page = render(_report(curves=False).model_copy(update={"curves": tuple(curves)}))
    assert sorted(_drawn(page, "Share of the gradient by term")) == list(plots.TONES)
    assert {f"t{number}" for number in range(2, 10)} < _rows(page).keys()
    assert not re.search(r"</svg>t[01]<", page)


@pytest.mark.parametrize(
    ("roles", "keys", "expected"),
    [
        (("teacher", "student"), ("training/{}", "training/{}/teacher"), ["teacher", "student"]),
        (("student",), ("training/{}", "training/{}/exit1", "training/{}/exit2"), ["student", "tone1", "tone2"]),
        (
            ("teacher", "teacher1", "teacher2", "assistant1", "student", "baseline"),
            ("teaching1/{}", "teaching2/{}", "assisting1/{}", "training/{}", "baseline/{}"),
            ["tone1", "tone2", "tone3", "student", "baseline"],
        ),
    ],
)
def test_every_network_that_was_validated_has_its_curve(
    roles: tuple[str, ...], keys: tuple[str, ...], expected: list[str]
) -> None:
    curves = tuple(_curve(key.format("validation/accuracy"), 0.5, 0.8) for key in keys)
    page = render(_with(_report(), *roles, curves=curves, gain=None))
    assert _drawn(page, "Validation accuracy") == expected
    assert re.findall(r'class="line (\w+)" d="M0 7H34"/></svg>', page) == expected


def test_at_most_six_curves_stand_in_one_plot_student_and_baseline_among_them() -> None:
    roles = ("student", "baseline", *(f"teacher{number}" for number in range(1, 10)))
    keys = ("training", "baseline", *(f"teaching{number}" for number in range(1, 10)))
    curves = tuple(_curve(f"{key}/validation/accuracy", 0.5, 0.8) for key in keys)
    page = render(_with(_report(), *roles, curves=curves, gain=None))
    assert _drawn(page, "Validation accuracy") == ["tone1", "tone2", "tone3", "tone4", "student", "baseline"]
    assert "The curves of 5 more networks are left out." in page


def test_losses_that_mean_different_things_are_not_called_the_same() -> None:
    curves = tuple(
        _curve(f"{run}/{key}", 2.0, 1.0) for run in ("training", "baseline") for key in ("loss", "loss/cross_entropy")
    )
    report = _with(_report(), "student", "baseline", curves=curves)
    assert "Cross-entropy with the labels, while training" in render(report)
    own = report.model_copy(update={"spec": {"method": {"strategy": "self_distillation"}}})
    assert "Training loss, each network's own objective" in render(own)


def test_early_exits_are_told_with_cost_and_every_valid_speed() -> None:
    assert "<h2>Early exits</h2>" not in render(_report())
    exits = (
        EarlyExit(role="exit1", stage="layer1", latency=_latency("cpu", "cuda")),
        EarlyExit(role="exit2", stage="layer2", latency=_latency("cpu", verdict="invalid")),
    )
    report = _with(_report(), "student", "exit1", "exit2", "baseline", exits=exits)
    quality = [each.model_copy(update={"macs": 250_000} if each.role == "exit1" else {}) for each in report.quality]
    page = render(report.model_copy(update={"quality": tuple(quality)}))
    section = page[page.index("<h2>Early exits</h2>") :].partition("</section>")[0]
    tables = section.split("<h3")
    assert _rows(tables[0])["Exit 1"] == [
        "layer1",
        "90.0 %",
        f"88.0 {figures.NONE} 92.0 %",
        "620,362",
        "250,000",
        "25.0 %",
    ]
    assert _rows(tables[0])["Whole student"][-1] == "100.0 %"
    assert _rows(tables[1])["Exit 1"] == ["eager", "cuda", "8", "4.00", f"3.90 {figures.NONE} 4.10", "faster"]
    assert section.count('class="verdict faster"') == 2
    assert "Exit 2" not in tables[1]
    assert "Measurements left out because they were invalid: 1." in section


def test_exits_that_were_not_timed_have_no_table_of_speeds() -> None:
    exits = (EarlyExit(role="exit1", stage="layer1", latency=None),)
    page = render(_with(_report(), "student", "exit1", exits=exits, gain=None))
    assert "<h2>Early exits</h2>" in page
    assert "Speed-up over the whole student" not in page


def test_made_up_images_are_shown_and_nothing_else_is_embedded_in_their_place() -> None:
    page = render(_report().model_copy(update={"synthetic": PIXEL}))
    assert Addresses(page).fetched == [PIXEL, PIXEL]
    assert "The student has seen nothing but such images; no data set was read before the final test." in page
    for other in ("", "https://example.org/x.png", "data:image/svg+xml;base64,PHN2Zy8+", "data:text/html;base64,AA"):
        page = render(_report().model_copy(update={"synthetic": other}))
        assert "Made-up images" not in page
        assert Addresses(page).fetched == [PIXEL]


def test_hostile_names_in_every_section_stay_text() -> None:
    roles = ("teacher", "teacher1", "student", "exit1", "baseline", HOSTILE)
    spec = {
        "name": HOSTILE, "teacher": {"members": [{}], "merge": HOSTILE},
        "method": {"strategy": HOSTILE, "objective": [{"term": HOSTILE, "weight": 1.0}]},
    }  # fmt: skip
    curves = (
        *(_curve(f"training/{kind}/{HOSTILE.replace('/', '')}", 0.5, 0.5) for kind in ("loss", "share", "weighted")),
        *TERMS, _curve(f"training/validation/accuracy/{HOSTILE}", 0.5, 0.8),
    )  # fmt: skip
    latency = _latency(HOSTILE)
    exits = (EarlyExit(role="exit1", stage=HOSTILE, latency=latency),)
    sheet = f'{PIXEL}"><script>'
    report = _with(_report(), *roles, spec=spec, curves=curves, exits=exits, seeds=SPREAD, synthetic=sheet)
    hostile = tuple(each.model_copy(update={"architecture": HOSTILE}) for each in report.quality)
    page = render(report.model_copy(update={"quality": hostile, "latency": latency}))
    seen = Addresses(page)
    assert "script" not in seen.tags
    assert seen.handlers == []
    assert seen.fetched == [sheet]
    assert seen.tags.count("img") == 1
    assert page.count(CSP) == 1
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert all(ElementTree.fromstring(each) is not None for each in drawings)  # noqa: S314  # our own text


def test_it_tells_in_which_forms_the_networks_computed() -> None:
    assert "Computed as" not in render(_report())
    forms = (
        RunForms(run="teaching", teachers=(), student="eager"),
        RunForms(run="training", teachers=("openvino-bf16", "eager"), student="compiled"),
        RunForms(run="training-seed1", teachers=("openvino-bf16", "eager"), student="compiled"),
    )
    page = render(_report().model_copy(update={"forms": forms}))
    assert "<dt>teaching</dt><dd>eager</dd>" in page
    assert "<dt>training, training-seed1</dt><dd>teacher openvino-bf16, eager; student compiled</dd>" in page
