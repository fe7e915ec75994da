"""The sections of the page: networks by their roles, seeds, terms, curves, early exits, made-up images."""

import re
from xml.etree import ElementTree

import pytest

from distillery.report import (
    EarlyExit,
    Estimated,
    SeedRun,
)
from engine import figures, plots
from engine.report_page import render
from engine.spread import spread
from tests.engine.reports import (
    CSP,
    HOSTILE,
    PIXEL,
    Addresses,
    curve_of,
    drawn_in,
    latency_of,
    report_of,
    rows_of,
    with_roles,
)

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
        curve_of(f"training/loss/{name}", 3.0, raw), curve_of(f"training/weighted/{name}", 2.0, weight * raw),
        curve_of(f"training/share/{name}", *shares),
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
    page = render(
        with_roles(report_of(), *roles, spec=spec, exits=(EarlyExit(role="exit1", stage="layer1", latency=None),))
    )
    heads = next(heads for first, heads in rows_of(page).items() if first == "" and "Baseline" in heads)
    assert heads == ["Teacher", "Teacher 2", "Teacher 10", "Assistant 1", "Student", "Exit 1", "Baseline"]
    assert "<th>Teacher (3 networks, mean_logits)<br><small>seed_student</small></th>" in page
    assert "<th>Exit 1<br><small>behind layer1</small></th>" in page
    online = render(with_roles(report_of(), *roles, spec={**spec, "method": {"strategy": "online"}}))
    assert "<th>Teacher (the first of 3)<br>" in online


def test_an_ensemble_is_named_by_its_members_counted() -> None:
    report = report_of()
    teacher = report.quality[0].model_copy(update={"architecture": "resnet56 + wrn_40_2 + resnet56"})
    page = render(report.model_copy(update={"quality": (teacher, *report.quality[1:])}))
    assert "<small>2 \N{MULTIPLICATION SIGN} resnet56 + wrn_40_2</small>" in page


@pytest.mark.parametrize("roles", [("student", "baseline"), ("teacher", "student"), ("student",)])
def test_a_page_without_teacher_or_baseline_speaks_of_neither(roles: tuple[str, ...]) -> None:
    gain = Estimated(value=0.02, low=0.01, high=0.03) if "baseline" in roles else None
    spec = {"teacher": None, "method": {"strategy": "self_distillation"}}
    page = render(with_roles(report_of(), *roles, gain=gain, helped=None, spec=spec))
    assert ("Agreement with the teacher" in page) == ("teacher" in roles)
    assert ("Gain from self-distillation" in page) == ("baseline" in roles)
    assert "Gain from the teacher" not in page
    assert "Gap closed" not in page
    assert (">Smaller<" in page) == ("teacher" in roles)
    assert ("class by class" in page) == (len(roles) > 1)
    assert "None" not in page


def test_seeds_are_told_one_by_one_and_together() -> None:
    assert "<h2>Seeds</h2>" not in render(report_of())
    page = render(report_of().model_copy(update={"seeds": SPREAD, "gain": SPREAD.gain}))
    rows = rows_of(page)
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
    page = render(with_roles(report_of(), "teacher", "student", seeds=alone, gain=None, helped=None))
    assert rows_of(page)["7"] == ["97.0 %"]
    assert "Mean gain" not in page
    assert 'aria-label="Accuracy of the student by seed"' in page


def test_terms_are_told_with_weight_values_and_share_and_the_dead_one_is_marked() -> None:
    spec = {"method": {"strategy": "offline", "objective": OBJECTIVE}}
    page = render(report_of(curves=False).model_copy(update={"curves": TERMS, "spec": spec}))
    rows = rows_of(page)
    assert rows["cross_entropy"] == ["0.1", "0.5", "0.05", "15.0 %"]
    assert rows["soft_targets"] == ["0.9, rising over 5 epochs", "1.25", "1.125", "85.0 %"]
    assert rows["hint  dead"] == ["1e-6", "2", "2e-6", "0.02 %"]
    assert page.count('<span class="dead">') == 1
    # In the order of the spec, each with a stroke of its own, and so in the legend.
    assert drawn_in(page, "Share of the gradient by term") == ["tone1", "tone2", "tone3"]
    assert re.findall(r'class="line (tone\d)" d="M0 7H34"/></svg>(\w+)<', page) == [
        ("tone1", "cross_entropy"), ("tone2", "soft_targets"), ("tone3", "hint"),
    ]  # fmt: skip


def test_one_term_alone_is_not_worth_a_section() -> None:
    page = render(report_of(curves=False).model_copy(update={"curves": TERMS[:3]}))
    assert "What each term contributed" not in page


def test_of_an_online_study_the_terms_of_the_student_are_told() -> None:
    taught = curve_of("training/loss/teacher/cross_entropy", 1.0, 0.1)
    page = render(report_of(curves=False).model_copy(update={"curves": (*TERMS, taught)}))
    assert "teacher/cross_entropy" not in page
    assert rows_of(page)["cross_entropy"][0] == figures.NONE


def test_self_distillation_names_its_weights_itself() -> None:
    method = {"strategy": "self_distillation", "hard_weight": 0.7, "soft_weight": 0.3, "hint_weight": 1e-6}
    page = render(report_of(curves=False).model_copy(update={"curves": TERMS, "spec": {"method": method}}))
    assert [rows_of(page)[name][0] for name in ("cross_entropy", "soft_targets", "hint  dead")] == [
        "0.7",
        "0.3",
        "1e-6",
    ]


def test_more_terms_than_strokes_are_all_in_the_table_and_the_largest_in_the_plot() -> None:
    curves = []
    for number in range(10):
        curves += [
            curve_of(f"training/loss/t{number}", 1.0, 1.0),
            curve_of(f"training/share/t{number}", *[number / 45] * 2),
        ]
    page = render(report_of(curves=False).model_copy(update={"curves": tuple(curves)}))
    assert sorted(drawn_in(page, "Share of the gradient by term")) == list(plots.TONES)
    assert {f"t{number}" for number in range(2, 10)} < rows_of(page).keys()
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
    curves = tuple(curve_of(key.format("validation/accuracy"), 0.5, 0.8) for key in keys)
    page = render(with_roles(report_of(), *roles, curves=curves, gain=None))
    assert drawn_in(page, "Validation accuracy") == expected
    assert re.findall(r'class="line (\w+)" d="M0 7H34"/></svg>', page) == expected


def test_at_most_six_curves_stand_in_one_plot_student_and_baseline_among_them() -> None:
    roles = ("student", "baseline", *(f"teacher{number}" for number in range(1, 10)))
    keys = ("training", "baseline", *(f"teaching{number}" for number in range(1, 10)))
    curves = tuple(curve_of(f"{key}/validation/accuracy", 0.5, 0.8) for key in keys)
    page = render(with_roles(report_of(), *roles, curves=curves, gain=None))
    assert drawn_in(page, "Validation accuracy") == ["tone1", "tone2", "tone3", "tone4", "student", "baseline"]
    assert "The curves of 5 more networks are left out." in page


def test_losses_that_mean_different_things_are_not_called_the_same() -> None:
    curves = tuple(
        curve_of(f"{run}/{key}", 2.0, 1.0) for run in ("training", "baseline") for key in ("loss", "loss/cross_entropy")
    )
    report = with_roles(report_of(), "student", "baseline", curves=curves)
    assert "Cross-entropy with the labels, while training" in render(report)
    own = report.model_copy(update={"spec": {"method": {"strategy": "self_distillation"}}})
    assert "Training loss, each network's own objective" in render(own)


def test_early_exits_are_told_with_cost_and_every_valid_speed() -> None:
    assert "<h2>Early exits</h2>" not in render(report_of())
    exits = (
        EarlyExit(role="exit1", stage="layer1", latency=latency_of("cpu", "cuda")),
        EarlyExit(role="exit2", stage="layer2", latency=latency_of("cpu", verdict="invalid")),
    )
    report = with_roles(report_of(), "student", "exit1", "exit2", "baseline", exits=exits)
    quality = [each.model_copy(update={"macs": 250_000} if each.role == "exit1" else {}) for each in report.quality]
    page = render(report.model_copy(update={"quality": tuple(quality)}))
    section = page[page.index("<h2>Early exits</h2>") :].partition("</section>")[0]
    tables = section.split("<h3")
    assert rows_of(tables[0])["Exit 1"] == [
        "layer1",
        "90.0 %",
        f"88.0 {figures.NONE} 92.0 %",
        "620,362",
        "250,000",
        "25.0 %",
    ]
    assert rows_of(tables[0])["Whole student"][-1] == "100.0 %"
    assert rows_of(tables[1])["Exit 1"] == ["eager", "cuda", "8", "4.00", f"3.90 {figures.NONE} 4.10", "faster"]
    assert section.count('class="verdict faster"') == 2
    assert "Exit 2" not in tables[1]
    assert "Measurements left out because they were invalid: 1." in section


def test_exits_that_were_not_timed_have_no_table_of_speeds() -> None:
    exits = (EarlyExit(role="exit1", stage="layer1", latency=None),)
    page = render(with_roles(report_of(), "student", "exit1", exits=exits, gain=None))
    assert "<h2>Early exits</h2>" in page
    assert "Speed-up over the whole student" not in page


def test_made_up_images_are_shown_and_nothing_else_is_embedded_in_their_place() -> None:
    page = render(report_of().model_copy(update={"synthetic": PIXEL}))
    assert Addresses(page).fetched == [PIXEL, PIXEL]
    assert "The student has seen nothing but such images; no data set was read before the final test." in page
    for other in ("", "https://example.org/x.png", "data:image/svg+xml;base64,PHN2Zy8+", "data:text/html;base64,AA"):
        page = render(report_of().model_copy(update={"synthetic": other}))
        assert "Made-up images" not in page
        assert Addresses(page).fetched == [PIXEL]


def test_hostile_names_in_every_section_stay_text() -> None:
    roles = ("teacher", "teacher1", "student", "exit1", "baseline", HOSTILE)
    spec = {
        "name": HOSTILE, "teacher": {"members": [{}], "merge": HOSTILE},
        "method": {"strategy": HOSTILE, "objective": [{"term": HOSTILE, "weight": 1.0}]},
    }  # fmt: skip
    curves = (
        *(curve_of(f"training/{kind}/{HOSTILE.replace('/', '')}", 0.5, 0.5) for kind in ("loss", "share", "weighted")),
        *TERMS, curve_of(f"training/validation/accuracy/{HOSTILE}", 0.5, 0.8),
    )  # fmt: skip
    latency = latency_of(HOSTILE)
    exits = (EarlyExit(role="exit1", stage=HOSTILE, latency=latency),)
    sheet = f'{PIXEL}"><script>'
    report = with_roles(report_of(), *roles, spec=spec, curves=curves, exits=exits, seeds=SPREAD, synthetic=sheet)
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
