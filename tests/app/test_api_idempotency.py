"""Row 15: the same request sent twice, or fifty times at once, is done once and answered the same each time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from store import idempotency

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


def post(live: Any, key: str, *, path: str = "/v1/jobs", spec: Any = SPEC) -> Any:
    return live.http.post(path, json=spec, headers={"Idempotency-Key": key})


def job_ids(live: Any) -> list[str]:
    return [each["id"] for each in live.http.get("/v1/jobs", params={"page_size": 200}).json()["data"]]


def test_fifty_equal_requests_at_once_make_one_job_and_are_answered_the_same(either: Any) -> None:
    """Row 15: client retries."""
    with ThreadPoolExecutor(max_workers=50) as pool:
        answers = list(pool.map(lambda _: post(either, "once"), range(50)))
    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    assert len({each.headers["location"] for each in answers}) == 1
    assert [each.headers.get("idempotent-replayed") for each in answers].count(None) == 1
    assert job_ids(either) == [answers[0].json()["id"]]


def test_the_first_answer_is_repeated_even_when_the_job_has_changed(either: Any) -> None:
    first = post(either, "once")
    either.http.post(f"{first.headers['location']}:cancel")
    again = post(either, "once")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


def test_another_body_or_path_under_the_same_key_is_refused(either: Any, check_problem: Any) -> None:
    first = post(either, "once")
    problem = check_problem(post(either, "once", spec=SPEC | {"name": "other"}), 422, "IDEMPOTENCY_KEY_REUSED")
    assert "new key for each request" in problem.hint
    check_problem(
        post(either, "once", path=f"{first.headers['location']}:clone", spec={}), 422, "IDEMPOTENCY_KEY_REUSED"
    )
    assert len(job_ids(either)) == 1


def test_two_spellings_of_one_request_are_the_same_request(alone: Any) -> None:
    first = post(alone, "once")
    again = post(alone, "once", spec=dict(reversed(SPEC.items())) | {"baseline": True})
    assert again.content == first.content


def test_a_refused_request_leaves_its_key_free(alone: Any, check_problem: Any) -> None:
    unknown = SPEC | {"student": {"architecture": "nothing"}}
    check_problem(post(alone, "once", spec=unknown), 422, "INVALID_SPEC")
    assert post(alone, "once").status_code == 201


def test_retries_clones_and_measurements_have_keys_too(alone: Any) -> None:
    done = alone.succeeded()
    failed = alone.submit()["id"]
    alone.http.post(f"/v1/jobs/{failed}:cancel")
    for path, status in ((f"/v1/jobs/{failed}:retry", 201), (f"/v1/jobs/{done}:clone", 201),
                         (f"/v1/jobs/{done}/latency", 202)):  # fmt: skip
        answers = [post(alone, path[-30:].replace("/", "."), path=path, spec={}) for _ in range(2)]
        assert [each.status_code for each in answers] == [status, status], answers[0].text
        assert answers[0].content == answers[1].content
        assert answers[1].headers["idempotent-replayed"] == "true"
    assert len(job_ids(alone)) == 4


@pytest.mark.parametrize("key", ["", "two words", "ä", "x" * 256])
def test_a_key_is_visible_ascii_of_some_length(alone: Any, key: str) -> None:
    answer = alone.http.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 422
    assert job_ids(alone) == []


def test_a_key_is_forgotten_after_a_day(either: Any) -> None:
    first = post(either, "once")
    with either.worker.database.transaction() as session:
        session.execute(text("UPDATE idempotency_keys SET created_at = created_at - 86401"))
    assert post(either, "once").json()["id"] != first.json()["id"]
    with either.worker.database.transaction() as session:
        assert idempotency.sweep(session) == 0, "the new request has taken the place of the old one"
        session.execute(text("UPDATE idempotency_keys SET created_at = created_at - 86401"))
        assert idempotency.sweep(session) == 1


def test_the_first_answer_is_repeated_even_when_it_would_be_refused_by_now(alone: Any) -> None:
    teacher = alone.succeeded()
    taught = SPEC | {"teacher": {"architecture": "seed_student", "job": teacher}}
    asked = [("submit", "/v1/jobs", taught)]
    first = post(alone, "submit", spec=taught)
    asked.append(("clone", f"{first.headers['location']}:clone", {}))
    answers = [first, post(alone, "clone", path=asked[1][1], spec={})]
    for answer in answers:
        alone.http.post(f"{answer.headers['location']}:cancel").raise_for_status()
    assert alone.http.delete(f"/v1/jobs/{teacher}").status_code == 204
    for (key, path, spec), before in zip(asked, answers, strict=True):
        again = post(alone, key, path=path, spec=spec)
        assert (again.status_code, again.content) == (201, before.content), again.text
