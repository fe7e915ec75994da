"""The page is one file that needs nothing else, whatever the names in it try."""

import re
from xml.etree import ElementTree

import pytest

from distillery.report import (
    RunForms,
)
from engine.report_page import MOST_CLASSES, render
from tests.engine.reports import CSP, HOSTILE, PIXEL, Addresses, latency_of, report_of, scenarios_of


@pytest.mark.parametrize("name", ["digits", HOSTILE])
def test_the_page_fetches_nothing_and_runs_nothing(name: str) -> None:
    page = render(report_of(name=name, classes=(HOSTILE, "one")))
    seen = Addresses(page)
    assert "script" not in seen.tags
    assert seen.handlers == []
    assert seen.fetched == [PIXEL]
    assert not re.search(r"url\(|@import|javascript:", page)
    assert CSP in page


def test_names_are_shown_as_they_are() -> None:
    page = render(report_of(name="a <b> & c", classes=("x<y", "z")))
    assert "a &lt;b&gt; &amp; c" in page
    assert "x&lt;y" in page
    assert "<b> & c" not in page


def test_a_thumbnail_that_is_no_png_is_left_out() -> None:
    page = render(report_of(thumbnail="https://example.org/tracker.png"))
    assert "example.org" not in page
    assert "Where student and teacher differ most" not in page


def test_every_plot_is_well_formed_and_named_for_those_who_cannot_see_it() -> None:
    page = render(report_of(classes=("a&b", "c<d")).model_copy(update={"latency": latency_of("cpu")}))
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
    report = report_of(curves=False)
    bare = report.model_copy(update={"quality": report.quality[:2], "gain": None, "gap_closed": None, "helped": None})
    page = render(bare)
    assert "Gain from the teacher" not in page
    assert "<h2>Training</h2>" not in page
    assert "Student minus teacher, class by class" in page


def test_of_many_classes_those_that_differ_most_are_shown() -> None:
    classes = tuple(f"class {number}" for number in range(100))
    report = report_of(classes=classes)
    student = report.quality[1].model_copy(
        update={"per_class": {name: 0.94 + 0.001 * place for place, name in enumerate(classes)}}
    )
    page = render(report.model_copy(update={"quality": (report.quality[0], student, report.quality[2])}))
    assert f"The {100 - MOST_CLASSES} classes that differ least are left out." in page
    assert "class 99</text>" in page
    assert "class 0</text>" not in page


def test_latency_is_told_with_units_reasons_and_notes() -> None:
    page = render(report_of().model_copy(update={"latency": latency_of("cpu")}))
    assert "12.346" in page
    assert 'title="270 calls; a 95 % interval for p99 needs 368."' in page
    assert "<b>eager, batch 8, cpu:</b> one note. two notes." in page
    assert "a general note" in page
    assert "repeat &lt;this&gt;" in page
    assert "eager · 8<" in page
    assert "eager · 8 · cuda<" in render(report_of().model_copy(update={"latency": latency_of("cpu", "cuda")}))


def test_sweeps_and_servers_have_a_panel_for_each_input_and_none_without_them() -> None:
    assert "Throughput and load" not in render(report_of().model_copy(update={"latency": latency_of("cpu")}))
    page = render(report_of().model_copy(update={"latency": scenarios_of("model", "end_to_end")}))
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
    told = scenarios_of("model")
    sweep = told.sweeps[0].model_copy(update={"points": (), "best_batch_size": None})
    server = told.servers[0].model_copy(update={"rates": (), "lowest_missed": None})
    page = render(
        report_of().model_copy(update={"latency": told.model_copy(update={"sweeps": (sweep,), "servers": (server,)})})
    )
    assert "A batch of 8 does &lt;not&gt; fit." in page
    assert "No rate tried keeps to the objective." in page
    assert "Throughput by batch size" not in page


def test_a_comparison_from_bytes_is_told_apart() -> None:
    told = latency_of("cpu")
    (alone,) = told.comparisons
    whole = alone.model_copy(update={"input": "end_to_end"})
    page = render(report_of().model_copy(update={"latency": told.model_copy(update={"comparisons": (alone, whole)})}))
    assert "eager · 8<" in page
    assert "eager · 8 · bytes<" in page
    assert "<th>eager from bytes</th>" in page
    assert "<b>eager, batch 8, cpu, from encoded bytes:</b> one note." in page


def test_without_a_comparison_there_is_nothing_of_a_speedup_but_how_to_repeat() -> None:
    page = render(report_of().model_copy(update={"latency": scenarios_of("model")}))
    assert "Speed-up, by runtime and batch size" not in page
    assert "Calls, in milliseconds" not in page
    assert "To measure again" in page


def test_it_tells_in_which_forms_the_networks_computed() -> None:
    assert "Computed as" not in render(report_of())
    forms = (
        RunForms(run="teaching", teachers=(), student="eager"),
        RunForms(run="training", teachers=("openvino-bf16", "eager"), student="compiled"),
        RunForms(run="training-seed1", teachers=("openvino-bf16", "eager"), student="compiled"),
    )
    page = render(report_of().model_copy(update={"forms": forms}))
    assert "<dt>teaching</dt><dd>eager</dd>" in page
    assert "<dt>training, training-seed1</dt><dd>teacher openvino-bf16, eager; student compiled</dd>" in page
