"""Results of benchmarks as CSV, and side by side; and what makes two environments different ones."""

import csv
import io

import pytest

from distillery.benchmarks import COLUMNS, as_csv, compared
from distillery.environments import demand_one, differences
from distillery.errors import EnvironmentsDiffer, InvalidSpec
from distillery.report import LatencyReport
from distillery.spec import parse_benchmark
from tests.latency_reports import ENVIRONMENT, NOISE, against, comparison, report, row

JOB, MODEL = "job_" + "0" * 26, "mdl_" + "0" * 26


def test_a_csv_has_two_rows_for_each_comparison() -> None:
    told = report([comparison(row("a, the first", None), row('"b"', 1.0, macs=None), noise=(NOISE,))])
    first, second = csv.DictReader(io.StringIO(as_csv(told)))
    assert tuple(first) == COLUMNS
    assert (first["model"], first["against"], first["speedup"], first["p50_seconds"]) == ("a, the first", "", "", "")
    assert (second["model"], second["against"], second["speedup"]) == ('"b"', "a, the first", "2.0")
    assert (second["p95_seconds"], second["macs"], second["verdict"]) == ("2.0", "", "faster")
    assert (second["noise"], second["degraded"]) == ("spread", "false")


def test_benchmarks_stand_side_by_side() -> None:
    found = compared({
        "bmk_1": against("big", {"big": 4.0, "small": 2.0}),
        "bmk_2": against("big", {"big": 4.0, "small": 1.0, "other": 3.0}),
    })  # fmt: skip
    rows = {each.model: each for each in found.rows}
    assert [(each.benchmark_id, each.p50_seconds, each.change) for each in rows["small"].timed] == [
        ("bmk_1", 2.0, None), ("bmk_2", 1.0, 0.5),
    ]  # fmt: skip
    assert [each.benchmark_id for each in rows["other"].timed] == ["bmk_2"]
    assert len(rows["big"].timed) == 2
    assert found.benchmarks == {"bmk_1": "f" * 64, "bmk_2": "f" * 64}
    assert found.warnings == ()


def test_what_is_timed_from_encoded_bytes_stands_apart() -> None:
    whole = comparison(row("big", 9.0, input="end_to_end"), row("small", 4.0, input="end_to_end"), input="end_to_end")
    found = compared({
        "bmk_1": report([comparison(row("big", 4.0), row("small", 2.0)), whole]),
        "bmk_2": against("big", {"big": 4.0, "small": 1.0}),
    })  # fmt: skip
    assert [(each.model, each.input, len(each.timed)) for each in found.rows] == [
        ("big", "model", 2), ("small", "model", 2), ("big", "end_to_end", 1), ("small", "end_to_end", 1),
    ]  # fmt: skip
    rows = csv.DictReader(io.StringIO(as_csv(report([whole]))))
    assert [each["input"] for each in rows] == ["end_to_end"] * 2


def test_a_change_is_told_only_of_what_is_known() -> None:
    found = compared({"bmk_1": against("a", {"a": 1.0, "b": None}), "bmk_2": against("a", {"a": 1.0, "b": 2.0})})
    assert [each.change for each in found.rows[1].timed] == [None, None]


def test_benchmarks_of_different_environments_are_refused_and_what_differs_is_named() -> None:
    one = against("a", {"a": 1.0, "b": 1.0})
    other = against("a", {"a": 1.0, "b": 1.0}, fingerprint="0" * 64, versions={"torch": "2.8.0", "openvino": "2025.3"})
    with pytest.raises(EnvironmentsDiffer) as refused:
        compared({"bmk_1": one, "bmk_2": other})
    assert "versions.torch: 2.9.0 | 2.8.0" in refused.value.detail
    assert "versions.openvino: not told | 2025.3" in refused.value.detail
    assert "bmk_1, bmk_2" in refused.value.detail
    assert "cpu" not in refused.value.detail
    assert "force=true" in refused.value.hint
    forced = compared({"bmk_1": one, "bmk_2": other}, force=True)
    assert len(forced.rows) == 2 and "versions.torch" in forced.warnings[0]


def test_what_passes_is_no_difference() -> None:
    busy = ENVIRONMENT | {"load_average_1min": 9.0}
    assert differences([ENVIRONMENT, busy]) == {}
    # Reports from before there were fingerprints are told apart by what their machines were.
    silent = [against("a", {"a": 1.0, "b": 1.0}, fingerprint="", load_average_1min=load) for load in (1.0, 2.0)]
    assert demand_one(dict(zip("xy", silent, strict=True)), force=False, hint="") == ()


def test_a_fingerprint_alone_may_differ() -> None:
    told: dict[str, LatencyReport] = {
        name: against("a", {"a": 1.0, "b": 1.0}, fingerprint=name * 64) for name in ("1", "2")
    }
    with pytest.raises(EnvironmentsDiffer, match="What differs: their fingerprints"):
        compared(told)


def test_a_benchmark_names_its_models_and_its_reference() -> None:
    asked = parse_benchmark({"models": [{"job": JOB, "role": "teacher"}, {"job": JOB}, {"model": MODEL, "name": "x"}]})
    assert [each.called for each in asked.models] == [f"{JOB}/teacher", f"{JOB}/student", "x"]
    assert asked.held_against == f"{JOB}/teacher"
    assert parse_benchmark({"models": [{"job": JOB}]}).held_against == f"{JOB}/student"


@pytest.mark.parametrize(
    ("sent", "pointer", "hint"),
    [
        ({}, "/models", "Add this field."),
        ({"models": []}, "/models", "Give 1 or more items."),
        ({"models": [{"job": JOB}, {}]}, "/models/1", "Leave the other out."),
        ({"models": [{"job": JOB, "model": MODEL}]}, "/models/0", "Leave the other out."),
        ({"models": [{"job": JOB}, {"job": JOB}]}, "/models/1", "Give one of them another 'name'."),
        ({"models": [{"job": JOB}], "reference": "{x}"}, "/reference", f"There are: {JOB}/student."),
        ({"models": [{"job": "job_1"}]}, "/models/0/job", "pattern"),
        ({"models": [{"job": JOB}], "measure": {"runtimes": ["tensorrt"]}}, "/measure/runtimes/0", "openvino-int8"),
        ({"models": [{"job": JOB}], "measure": {"devices": ["mps"]}}, "/measure/devices/0", "Known: auto, cpu, cuda."),
        ({"models": [{"job": JOB}], "lables": {}}, "/lables", "Did you mean 'labels'?"),
        (
            {
                "models": [{"job": JOB, "name": str(place)} for place in range(16)],
                "measure": {
                    "batch_sizes": list(range(1, 17)), "runtimes": ["eager", "compiled", "onnxruntime", "openvino"],
                    "devices": ["cpu", "cuda"],
                },
            },
            "/measure",
            "Ask for fewer",
        ),
    ],
)  # fmt: skip
def test_a_bad_benchmark_is_told_where_and_how_to_mend_it(sent: dict[str, object], pointer: str, hint: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_benchmark(sent)
    assert [each.pointer for each in refused.value.problems] == [pointer]
    assert hint in refused.value.problems[0].hint
