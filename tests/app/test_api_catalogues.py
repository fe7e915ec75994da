"""Catalogues, health, and figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped] # it ships no types
import pytest
from prometheus_client.parser import text_string_to_metric_families

from distillery.spec import parse, resolve
from distillery.spec.methods import Method
from distillery.spec.objectives import AnyTerm
from distillery.spec.presets import PRESETS
from distillery.views import Architecture, ObjectiveTerm, Page

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


def test_every_architecture_is_listed_and_accepted(live: Any) -> None:
    page = Page[Architecture].model_validate_json(live.http.get("/v1/architectures").content)
    assert page.next_page_token is None
    names = [row.name for row in page.data]
    assert {"seed_teacher", "seed_student", "resnet20"} <= set(names)
    assert len(names) == len(set(names))
    for name in names[:: max(1, len(names) // 10)]:
        spec = SPEC | {"dataset": {"name": "digits", "image_size": 320}, "student": {"architecture": name}}
        assert live.http.post("/v1/jobs:validate", json=spec).status_code == 200


@pytest.mark.parametrize(("catalogue", "tag"), [("objectives", "term"), ("strategies", "strategy"), ("runtimes", None)])
def test_an_entry_has_what_one_needs_to_choose_it(live: Any, catalogue: str, tag: str | None) -> None:
    page = Page[ObjectiveTerm].model_validate_json(live.http.get(f"/v1/{catalogue}").content)
    assert page.data
    for entry in page.data:
        assert entry.summary
        assert entry.when_to_use.endswith(".")
        jsonschema.Draft202012Validator.check_schema(entry.json_schema)
        value = entry.defaults | {tag: entry.name} if tag else entry.name
        jsonschema.validate(value, entry.json_schema)


def test_the_terms_of_the_catalogue_make_a_spec(live: Any) -> None:
    terms = live.http.get("/v1/objectives").json()["data"]
    assert len(terms) == len(get_args(AnyTerm))
    spec = SPEC | {"method": {"objective": [{"term": term["name"], **term["defaults"]} for term in terms]}}
    assert [type(term) for term in parse(spec).method.terms] == list(get_args(AnyTerm))
    assert live.http.post("/v1/jobs:validate", json=spec).status_code == 200


TEACHERS: dict[str, Any] = {
    "offline": SPEC["teacher"],
    "online": {"architecture": "seed_teacher"},
    "self_distillation": None,
    "data_free": {"architecture": "seed_teacher", "weights": "teacher.safetensors"},
}


def test_every_strategy_of_the_catalogue_is_a_method_of_a_spec(live: Any) -> None:
    strategies = live.http.get("/v1/strategies").json()["data"]
    assert [each["name"] for each in strategies] == list(TEACHERS)
    assert len(strategies) == len(get_args(get_args(Method)[0]))
    for each in strategies:
        method = {"strategy": each["name"], **each["defaults"]}
        spec = SPEC | {"teacher": TEACHERS[each["name"]], "method": method}
        assert parse(spec).method == parse(spec | {"method": {"strategy": each["name"]}}).method
        answer = live.http.post("/v1/jobs:validate", json=spec)
        assert answer.status_code == 200, answer.text
        assert answer.json()["resolved_spec"]["method"]["strategy"] == each["name"]


def test_the_presets_stand_with_the_strategy_that_takes_them(live: Any) -> None:
    strategies = Page[ObjectiveTerm].model_validate_json(live.http.get("/v1/strategies").content).data
    assert {each.name: set(each.presets) for each in strategies if each.presets} == {"offline": set(PRESETS)}
    for name, terms in next(each.presets for each in strategies if each.name == "offline").items():
        by_name, by_terms = (
            resolve(parse(SPEC | {"method": method})).method for method in ({"preset": name}, {"objective": terms})
        )
        assert by_name == by_terms
    terms = Page[ObjectiveTerm].model_validate_json(live.http.get("/v1/objectives").content).data
    assert not any(each.presets for each in terms)


def test_a_ready_service_says_so(either: Any) -> None:
    assert either.http.get("/livez").json()["status"] == "ok"
    answer = either.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "checks": {"database": "ok", "artifacts": "ok"}},
    )


def test_a_service_without_tables_or_files_is_alive_and_not_ready(
    empty_postgres_url: str, tmp_path: Path, launch_on: Callable[..., Any], check_problem: Any
) -> None:
    with launch_on(empty_postgres_url, tmp_path) as live:
        (tmp_path / "artifacts").rmdir()
        answer = live.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert "ok" not in answer.json()["checks"].values()
        assert live.http.get("/livez").status_code == 200
        refused = live.http.get("/v1/jobs")
        check_problem(refused, 503, "UNAVAILABLE")
        assert refused.headers["retry-after"] == "5"


def test_a_database_that_is_away_is_503_with_the_time_to_come_back(
    tmp_path: Path, launch_on: Callable[..., Any], unused_port: Any, check_problem: Any
) -> None:
    secret = "hunter2"
    with launch_on(f"postgresql://me:{secret}@127.0.0.1:{unused_port()}/none", tmp_path) as live:
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/models"), ("GET", "/metrics")):
            answer = live.http.request(method, path, json=SPEC if method == "POST" else None)
            check_problem(answer, 503, "UNAVAILABLE")
            assert answer.headers["retry-after"] == "5"
            assert secret not in answer.text
        assert secret not in live.http.get("/readyz").text
        assert live.http.get("/v1/architectures").status_code == 200


def test_the_figures_count_jobs_by_status_and_requests_by_route(alone: Any) -> None:
    job_id = alone.submit()["id"]
    alone.succeeded()
    alone.http.get(f"/v1/jobs/{job_id}")
    alone.http.get("/nowhere/17")
    answer = alone.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["distillery_jobs", ("status", "queued")] == 1
    assert samples["distillery_jobs", ("status", "succeeded")] == 1
    assert samples["distillery_outbox", ("kind", "hint")] == 1
    assert samples["distillery_refused_writes",] == 0
    counted = {key: value for key, value in samples.items() if key[0] == "distillery_http_requests_total"}
    assert counted["distillery_http_requests_total", ("method", "POST"), ("route", "/v1/jobs"), ("status", "201")] == 2
    by_id = ("distillery_http_requests_total", ("method", "GET"), ("route", "/v1/jobs/{job_id}"), ("status", "200"))
    assert counted[by_id] == 1
    assert job_id not in answer.text
    assert "/nowhere" not in answer.text
