"""Benchmarks over HTTP: asked for once, found again, told in three forms, held against each other, taken back."""

import csv
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from distillery.benchmarks import BenchmarkComparison
from distillery.pareto import Pareto
from distillery.report import LatencyReport
from distillery.spec.latency import RUNTIMES
from distillery.views import Benchmark
from store import benchmarks, leases
from tests.latency_reports import against
from worker.messages import ModelFacts

PAGE = b"<!DOCTYPE html><p>a page</p>"


def facts(role: Any, accuracy: float) -> ModelFacts:
    return ModelFacts(
        role=role, artifact=f"{role}.safetensors", architecture=f"seed_{role}", classes=("0", "1"), image_size=8,
        channels=1, mean=(0.5,), std=(0.5,), accuracy=accuracy, sha256="0" * 64,
    )  # fmt: skip


@pytest.fixture
def distilled(either: Any) -> Callable[..., str]:
    """A job that succeeded, with teacher and student delivered, and its latency measured where a report is given."""

    def made(*, accuracy: float = 0.9, latency: LatencyReport | None = None, **changes: Any) -> str:
        job_id = str(either.submit(**changes)["id"])
        claim = either.worker.claim(job_id)
        for name in ("student.safetensors", "teacher.safetensors"):
            either.worker.deliver(claim, name, b"weights")
        if latency is not None:
            either.worker.deliver(claim, "latency.json", latency.model_dump_json().encode())
        models = [facts("teacher", 0.99), facts("student", accuracy)]
        either.worker.do(leases.succeed, claim, summary="done", models=models)
        return job_id

    return made


@pytest.fixture
def measured(either: Any, distilled: Callable[..., str]) -> Callable[..., str]:
    """A benchmark of a job's teacher and student that a worker has measured."""

    def made(job_id: str | None = None, *, report: LatencyReport | None = None, **changes: Any) -> str:
        job_id = job_id or distilled()
        models = [{"job": job_id, "role": "teacher", "name": "big"}, {"job": job_id, "name": "small"}]
        asked = either.http.post("/v1/benchmarks", json={"models": models, **changes})
        assert asked.status_code == 202, asked.text
        claim = either.worker.claim(asked.json()["id"])
        either.worker.deliver(claim, "benchmark.html", PAGE, media_type="text/html; charset=utf-8")
        either.worker.deliver(claim, "benchmark_samples.csv", b"compared\n", media_type="text/csv")
        result = report or against("big", {"big": 2.0, "small": 1.0})
        keep = partial(benchmarks.keep, benchmark_id=claim.id, result=result)
        either.worker.do(leases.succeed, claim, summary="measured", keep=keep)
        return str(claim.id)

    return made


def test_a_benchmark_is_asked_for_once_and_found_again(either: Any, distilled: Callable[..., str]) -> None:
    body = {"models": [{"job": distilled()}], "labels": {"project": "flowers"}}
    first, again = (either.http.post("/v1/benchmarks", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert (first.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert first.json() == again.json()
    asked = Benchmark.model_validate(first.json())
    assert first.headers["location"] == f"/v1/benchmarks/{asked.id}"
    assert (asked.status, asked.job_id, asked.models[0].role) == ("queued", None, "student")
    assert either.http.get(first.headers["location"]).json() == first.json()
    listed = either.http.get("/v1/benchmarks", params={"label": "project=flowers"}).json()["data"]
    assert [each["id"] for each in listed] == [asked.id]
    assert either.http.get("/v1/benchmarks", params={"label": "project=birds"}).json()["data"] == []
    assert either.http.get("/v1/benchmarks", params={"status": "running"}).json()["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer", "hint"),
    [
        ({}, "/models", "Add this field."),
        ({"models": [{"job": "job_" + "0" * 26}]}, "/models/0/job", "GET /v1/jobs"),
        ({"models": [{"model": "mdl_" + "0" * 26}]}, "/models/0/model", "GET /v1/models"),
        (
            {"models": [{"model": "mdl_" + "0" * 26}], "measure": {"runtimes": ["tensorrt"]}},
            "/measure/runtimes/0",
            f"Known: {', '.join(RUNTIMES)}.",
        ),
    ],
)  # fmt: skip
def test_a_bad_benchmark_is_refused(
    live: Any, check_problem: Any, body: dict[str, Any], pointer: str, hint: str
) -> None:
    problem = check_problem(live.http.post("/v1/benchmarks", json=body), 422, "INVALID_SPEC")
    assert [each.pointer for each in problem.errors] == [pointer]
    assert hint in problem.errors[0].hint


def test_a_job_that_has_not_succeeded_has_nothing_to_time(either: Any, check_problem: Any) -> None:
    body = {"models": [{"job": either.submit()["id"]}]}
    problem = check_problem(either.http.post("/v1/benchmarks", json=body), 422, "INVALID_SPEC")
    assert problem.errors[0].pointer == "/models/0/job"
    assert "is queued" in problem.errors[0].detail


def test_a_result_comes_in_three_forms(either: Any, measured: Callable[..., str]) -> None:
    there = f"/v1/benchmarks/{measured()}/result"
    as_json = either.http.get(there)
    assert as_json.headers["content-type"] == "application/json"
    assert LatencyReport.model_validate_json(as_json.content).comparisons[0].rows[1].model == "small"
    for options in ({"headers": {"Accept": "text/csv"}}, {"params": {"format": "csv"}}):
        answer = either.http.get(there, **options)
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [(row["model"], row["against"]) for row in rows] == [("big", ""), ("small", "big")]
    page = either.http.get(there, headers={"Accept": "text/html"})
    assert (page.content, page.headers["vary"]) == (PAGE, "Accept")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert either.http.get(there, params={"format": "json"}, headers={"Accept": "text/html"}).json()["protocol"]


def test_the_files_of_a_benchmark_are_downloaded(either: Any, measured: Callable[..., str], check_problem: Any) -> None:
    there = f"/v1/benchmarks/{measured()}/artifacts"
    (page, samples) = either.http.get(there).json()["data"]
    assert (page["name"], samples["name"]) == ("benchmark.html", "benchmark_samples.csv")
    assert samples["url"] == f"{there}/benchmark_samples.csv"
    answer = either.http.get(samples["url"])
    assert (answer.content, answer.headers["etag"]) == (b"compared\n", f'"sha256-{samples["sha256"]}"')
    assert either.http.head(samples["url"]).headers["content-length"] == "9"
    check_problem(either.http.get(f"{there}/nothing"), 404, "NOT_FOUND")


def test_without_a_result_there_is_none_to_show(either: Any, distilled: Callable[..., str], check_problem: Any) -> None:
    job_id = distilled()
    asked = either.http.post("/v1/benchmarks", json={"models": [{"job": job_id}]}).json()["id"]
    problem = check_problem(either.http.get(f"/v1/benchmarks/{asked}/result"), 404, "NOT_FOUND")
    assert "is queued" in problem.detail


def test_a_measurement_of_one_job_has_a_result_in_every_form_too(
    either: Any, distilled: Callable[..., str], check_problem: Any
) -> None:
    def measured(**files: bytes) -> str:
        claim = either.worker.claim(either.http.post(f"/v1/jobs/{job_id}/latency").json()["id"])
        for name, content in files.items():
            either.worker.deliver(claim, f"{name}.html", content, media_type="text/html; charset=utf-8")
        result = against("teacher", {"teacher": 2.0, "student": 1.0})
        either.worker.do(leases.succeed, claim, summary="measured", benchmark_result=result)
        return f"/v1/benchmarks/{claim.id}/result"

    job_id = distilled()
    there = measured(latency=PAGE)
    assert either.http.get(there, params={"format": "csv"}).text.count("\n") == 3
    assert either.http.get(there, params={"format": "html"}).content == PAGE
    problem = check_problem(either.http.get(measured(), params={"format": "html"}), 404, "NOT_FOUND")
    assert "Ask for JSON or CSV" in problem.hint


def test_benchmarks_of_one_environment_stand_side_by_side(
    either: Any, measured: Callable[..., str], check_problem: Any
) -> None:
    one, other = measured(), measured(report=against("big", {"big": 2.0, "small": 0.5}))
    elsewhere = measured(report=against("big", {"big": 2.0, "small": 0.5}, fingerprint="0" * 64, cpu="A slow one"))
    told = either.http.get("/v1/benchmarks/compare", params={"ids": f"{one}, {other}"})
    found = BenchmarkComparison.model_validate_json(told.content)
    assert [[each.change for each in row.timed] for row in found.rows] == [[None, 1.0], [None, 0.5]]
    asked = {"ids": f"{one},{elsewhere}"}
    problem = check_problem(either.http.get("/v1/benchmarks/compare", params=asked), 409, "ENVIRONMENTS_DIFFER")
    assert "cpu: A fast one | A slow one" in problem.detail and "force=true" in problem.hint
    forced = either.http.get("/v1/benchmarks/compare", params=asked | {"force": "true"})
    assert "A slow one" in BenchmarkComparison.model_validate_json(forced.content).warnings[0]


@pytest.mark.parametrize(
    ("ids", "status", "code"),
    [
        (None, 422, "INVALID_REQUEST"),
        ("", 422, "INVALID_REQUEST"),
        ("bmk_" + "0" * 26, 422, "INVALID_REQUEST"),
        (",".join(["bmk_" + "0" * 26] * 2), 422, "INVALID_REQUEST"),
        (f"bmk_{'0' * 26},bmk_{'1' * 26}", 404, "NOT_FOUND"),
        (f"bmk_{'0' * 26},x", 404, "NOT_FOUND"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    live: Any, check_problem: Any, ids: str | None, status: int, code: str
) -> None:
    answer = live.http.get("/v1/benchmarks/compare", params={} if ids is None else {"ids": ids})
    problem = check_problem(answer, status, code)
    if status == 422:
        assert problem.errors[0].pointer == "/ids"


def test_a_benchmark_without_a_result_is_not_compared(
    either: Any, measured: Callable[..., str], check_problem: Any
) -> None:
    done = measured()
    latency = either.http.post(f"/v1/jobs/{either.http.get('/v1/jobs').json()['data'][0]['id']}/latency").json()["id"]
    answer = either.http.get("/v1/benchmarks/compare", params={"ids": f"{done},{latency}"})
    assert "is queued" in check_problem(answer, 409, "WRONG_STATE").detail


def test_a_pareto_table_holds_the_students_of_a_project(
    either: Any, distilled: Callable[..., str], measured: Callable[..., str], check_problem: Any
) -> None:
    flowers = {"labels": {"project": "flowers"}}
    # Reports of two jobs: their rows have the same names, and the weights tell them apart.
    quick, slow = (
        against("teacher", {"teacher": 4.0, "student": seconds}).model_copy(
            update={"weights_sha256": {"teacher": "a" * 64, "student": str(place) * 64}}
        )
        for place, seconds in enumerate((1.0, 2.0))
    )
    distilled(name="quick", accuracy=0.8, latency=quick, **flowers)
    distilled(name="slow", accuracy=0.7, latency=slow, **flowers)
    distilled(name="other", accuracy=0.99, latency=quick, labels={"project": "birds"})
    measured(distilled(name="third", accuracy=0.95), report=against("big", {"big": 9.0, "small": 3.0}), **flowers)
    answer = either.http.get("/v1/benchmarks/pareto", params={"label": "project=flowers"})
    table = Pareto.model_validate_json(answer.content)
    assert [(each.name, each.accuracy, each.p95_seconds, "p95" in each.front) for each in table.points] == [
        ("small", 0.95, 6.0, True), ("quick", 0.8, 2.0, True), ("slow", 0.7, 4.0, False),
    ]  # fmt: skip
    only = either.http.get("/v1/benchmarks/pareto", params={"label": "project=flowers", "against": "memory"}).json()
    assert [each["front"] for each in only["points"]] == [["memory"], [], []]
    assert either.http.get("/v1/benchmarks/pareto", params={"label": "project=none"}).json()["points"] == []
    check_problem(either.http.get("/v1/benchmarks/pareto"), 422, "INVALID_REQUEST")

    elsewhere = against("teacher", {"teacher": 4.0, "student": 1.0}, fingerprint="0" * 64, threads=8)
    distilled(name="elsewhere", latency=elsewhere, **flowers)
    refused = either.http.get("/v1/benchmarks/pareto", params={"label": "project"})
    assert "threads: 1 | 8" in check_problem(refused, 409, "ENVIRONMENTS_DIFFER").detail or "8 | 1" in refused.text
    one = either.http.get("/v1/benchmarks/pareto", params={"label": "project=flowers", "fingerprint": "ffffff"})
    assert len(one.json()["points"]) == 3
    forced = either.http.get("/v1/benchmarks/pareto", params={"label": "project=flowers", "force": "true"}).json()
    assert len(forced["points"]) == 4 and "forced" in forced["warnings"][0]


def test_a_report_that_is_gone_costs_its_own_point_only(either: Any, distilled: Callable[..., str]) -> None:
    flowers = {"labels": {"project": "flowers"}}
    lost = distilled(latency=against("teacher", {"teacher": 4.0, "student": 1.0}), **flowers)
    either.worker.artifacts.delete(f"jobs/{lost}/a1/latency.json")
    distilled(name="here", latency=against("teacher", {"teacher": 4.0, "student": 1.0}), **flowers)
    table = either.http.get("/v1/benchmarks/pareto", params={"label": "project"}).json()
    assert [each["name"] for each in table["points"]] == ["here"]
    assert lost in table["warnings"][0]


def test_a_benchmark_is_cancelled_and_deleted(either: Any, distilled: Callable[..., str], check_problem: Any) -> None:
    there = f"/v1/benchmarks/{either.http.post('/v1/benchmarks', json={'models': [{'job': distilled()}]}).json()['id']}"
    check_problem(either.http.delete(there), 409, "WRONG_STATE")
    assert either.http.post(f"{there}:cancel").json()["status"] == "cancelled"
    check_problem(either.http.post(f"{there}:cancel"), 409, "WRONG_STATE")
    assert either.http.delete(there).status_code == 204
    check_problem(either.http.get(there), 404, "NOT_FOUND")
    check_problem(either.http.delete(there), 404, "NOT_FOUND")
