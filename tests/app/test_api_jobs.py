"""Submitting, finding, watching and cancelling jobs over HTTP, on both databases."""

import threading
import time
from typing import Any

import httpx
import pytest

from distillery.views import Job, Page, Validation
from store import leases, outbox


def test_a_submitted_job_is_stored_and_can_be_shown(either: Any) -> None:
    answer = either.http.post("/v1/jobs", json={**SPEC, "name": "first", "labels": {"team": "vision"}})
    assert answer.status_code == 201
    job = Job.model_validate_json(answer.content)
    assert answer.headers["location"] == f"/v1/jobs/{job.id}"
    assert (job.status, job.name, job.labels, job.attempt) == ("queued", "first", {"team": "vision"}, 0)
    assert job.queue is not None
    assert job.queue.position == 1
    assert job.spec.training.seed is None
    assert job.resolved_spec.training.seed is not None
    shown = either.http.get(answer.headers["location"])
    assert Job.model_validate_json(shown.content).id == job.id


def test_submitting_writes_the_hint_with_the_job(either: Any) -> None:
    job = either.submit()
    with either.worker.database.transaction() as session:
        hints = outbox.due(session, kinds=["hint"], limit=10)
    assert [hint.payload["job_id"] for hint in hints] == [job["id"]]


def test_a_resolved_spec_can_be_submitted_again(either: Any) -> None:
    first = either.submit()
    again = either.http.post("/v1/jobs", json=first["resolved_spec"])
    assert again.status_code == 201
    assert again.json()["resolved_spec"] == first["resolved_spec"]


def test_validating_writes_nothing_and_estimates(either: Any) -> None:
    answer = either.http.post("/v1/jobs:validate", json=SPEC)
    assert answer.status_code == 200
    told = Validation.model_validate_json(answer.content)
    assert told.resolved_spec.training.seed is not None
    assert told.estimate.seconds is not None
    assert 0 < told.estimate.seconds.low < told.estimate.seconds.high
    assert told.warnings == ()
    assert either.http.get("/v1/jobs").json()["data"] == []


def test_a_list_is_paged_newest_first_and_its_token_is_bound_to_the_filters(either: Any, check_problem: Any) -> None:
    ids = [either.submit(name=f"job {number}", labels={"n": str(number)})["id"] for number in range(5)]
    seen, token = [], None
    while True:
        query = {"page_size": 2} | ({"page_token": token} if token else {})
        page = Page[Any].model_validate_json(either.http.get("/v1/jobs", params=query).content)
        seen += [entry["id"] for entry in page.data]
        token = page.next_page_token
        if token is None:
            break
        assert len(page.data) == 2
    assert seen == ids[::-1]

    first = either.http.get("/v1/jobs", params={"page_size": 2}).json()["next_page_token"]
    foreign = either.http.get("/v1/jobs", params={"page_token": first, "status": "queued"})
    assert check_problem(foreign, 400, "INVALID_PAGE_TOKEN").errors[0].pointer == "/page_token"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status": "queued"}, 1),
        ({"status": "cancelled"}, 1),
        ({"status": "failed"}, 0),
        ({"task": "image-classification"}, 2),
        ({"strategy": "offline"}, 2),
        ({"architecture": "seed_teacher"}, 2),
        ({"architecture": "resnet8"}, 1),
        ({"label": "team"}, 1),
        ({"label": "team=vision"}, 1),
        ({"label": "team=text"}, 0),
        ({"q": "SECOND"}, 1),
        ({"q": "%"}, 0),
        ({"created_after": "2020-01-01T00:00:00Z"}, 2),
        ({"created_before": "2020-01-01T00:00:00+02:00"}, 0),
        ({"status": "queued", "label": "team"}, 1),
    ],
    ids=str,
)
def test_filters_narrow_the_list(two_jobs: Any, query: dict[str, str], found: int) -> None:
    answer = two_jobs.http.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == found


@pytest.fixture(scope="module")
def two_jobs(live: Any) -> Any:
    live.submit(name="first", labels={"team": "vision"})
    other = live.submit(name="the second", student={"architecture": "resnet8"})
    live.http.post(f"/v1/jobs/{other['id']}:cancel").raise_for_status()
    return live


def test_an_unchanged_job_is_not_sent_again(alone: Any) -> None:
    job_id = alone.succeeded()
    first = alone.http.get(f"/v1/jobs/{job_id}")
    again = alone.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert alone.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_changed_job_has_another_etag(alone: Any) -> None:
    job_id = alone.submit()["id"]
    before = alone.http.get(f"/v1/jobs/{job_id}").headers["etag"]
    alone.worker.claim(job_id)
    after = alone.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": before})
    assert (after.status_code, after.json()["status"]) == (200, "running")


def test_waiting_ends_when_the_status_changes(either: Any) -> None:
    job_id = either.submit()["id"]
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(either.http.get(f"/v1/jobs/{job_id}?wait=60")))
    waiting.start()
    claim = either.worker.claim(job_id)
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert answers[0].json()["status"] == "running"

    later = threading.Thread(target=lambda: answers.append(either.http.get(f"/v1/jobs/{job_id}?wait=60")))
    later.start()
    either.worker.do(leases.phase, claim, "training")
    later.join(timeout=30)
    assert answers[1].json()["phase"] == "training"


def test_waiting_ends_with_the_time_and_at_once_for_a_job_that_has_ended(alone: Any) -> None:
    queued = alone.http.get(f"/v1/jobs/{alone.submit()['id']}?wait=1")
    assert queued.json()["status"] == "queued"
    began = time.monotonic()
    ended = alone.http.get(f"/v1/jobs/{alone.succeeded()}?wait=60", timeout=30)
    assert ended.json()["status"] == "succeeded"
    assert time.monotonic() - began < 59


def test_many_clients_can_wait_while_others_are_served(alone: Any) -> None:
    job_id = alone.submit()["id"]
    answers: list[str] = []

    def wait() -> None:
        with httpx.Client(base_url=alone.url, timeout=60) as own:
            answers.append(own.get(f"/v1/jobs/{job_id}?wait=60").json()["status"])

    waiting = [threading.Thread(target=wait) for _ in range(45)]
    for thread in waiting:
        thread.start()
    assert alone.http.get("/livez").status_code == 200
    assert alone.http.post(f"/v1/jobs/{job_id}:cancel").status_code == 200
    for thread in waiting:
        thread.join(timeout=60)
    assert answers == ["cancelled"] * 45


def test_many_clients_can_submit_at_once(either: Any) -> None:
    answers: list[httpx.Response] = []

    def submit() -> None:
        with httpx.Client(base_url=either.url, timeout=60) as own:
            answers.extend(own.post("/v1/jobs", json=SPEC) for _ in range(3))

    threads = [threading.Thread(target=submit) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [answer.status_code for answer in answers] == [201] * 90
    assert len({answer.json()["id"] for answer in answers}) == 90
    listed = either.http.get("/v1/jobs?page_size=200").json()["data"]
    assert {job["id"] for job in listed} == {answer.json()["id"] for answer in answers}


def test_cancelling_a_queued_job_ends_it_and_a_running_one_is_asked(either: Any, check_problem: Any) -> None:
    queued = either.submit()["id"]
    assert either.http.post(f"/v1/jobs/{queued}:cancel").json()["status"] == "cancelled"
    problem = check_problem(either.http.post(f"/v1/jobs/{queued}:cancel"), 409, "WRONG_STATE")
    assert "cancelled" in problem.detail

    running = either.submit()["id"]
    claim = either.worker.claim(running)
    assert either.http.post(f"/v1/jobs/{running}:cancel").json()["status"] == "cancelling"
    assert either.http.post(f"/v1/jobs/{running}:cancel").json()["status"] == "cancelling"
    assert either.worker.do(leases.beat, claim, lease_seconds=60) == "cancel"


def test_metrics_come_as_json_and_as_a_table(either: Any) -> None:
    job_id = either.submit()["id"]
    claim = either.worker.claim(job_id)
    for step in range(100):
        either.worker.do(
            leases.metrics, claim, step=step, values={"training/loss": 1 / (step + 1), "training/lr": None}
        )
    whole = either.http.get(f"/v1/jobs/{job_id}/metrics").json()["series"]
    assert [(series["key"], series["total_points"]) for series in whole] == [
        ("training/loss", 100),
        ("training/lr", 100),
    ]
    thin = either.http.get(f"/v1/jobs/{job_id}/metrics?keys=training/loss&max_points=10").json()["series"]
    assert [series["key"] for series in thin] == ["training/loss"]
    assert len(thin[0]["points"]) <= 10
    assert thin[0]["points"][0] == {"step": 0, "value": 1.0}
    for table in (
        either.http.get(f"/v1/jobs/{job_id}/metrics?format=csv&max_points=2"),
        either.http.get(f"/v1/jobs/{job_id}/metrics?max_points=2", headers={"Accept": "text/csv"}),
    ):
        assert table.headers["content-type"].startswith("text/csv")
        lines = table.text.split("\r\n")
        assert lines[:2] == ["key,step,value", "training/loss,0,1.0"]
        assert "training/lr,0," in lines


def test_models_of_finished_jobs_are_listed_and_can_teach(either: Any, check_problem: Any) -> None:
    job_id = either.succeeded()
    page = either.http.get("/v1/models").json()
    assert [model["job_id"] for model in page["data"]] == [job_id]
    model_id = page["data"][0]["id"]
    assert either.http.get(f"/v1/models/{model_id}").json()["architecture"] == "seed_student"
    assert either.http.get(f"/v1/jobs/{job_id}").json()["student_model_id"] == model_id
    for source in ({"model": model_id}, {"job": job_id}):
        taught = either.http.post("/v1/jobs", json={**SPEC, "teacher": {"architecture": "seed_student", **source}})
        assert taught.status_code == 201, taught.text
        other = either.http.post("/v1/jobs", json={**SPEC, "teacher": {"architecture": "seed_teacher", **source}})
        problem = check_problem(other, 422, "INVALID_SPEC")
        assert problem.errors[0].pointer == "/teacher/architecture"
        assert "seed_student" in problem.errors[0].hint


def test_latency_is_measured_by_a_worker_and_shown(either: Any, check_problem: Any) -> None:
    queued = either.submit()["id"]
    check_problem(either.http.post(f"/v1/jobs/{queued}/latency"), 409, "WRONG_STATE")
    job_id = either.succeeded()
    check_problem(either.http.get(f"/v1/jobs/{job_id}/latency"), 404, "NOT_FOUND")
    asked = either.http.post(f"/v1/jobs/{job_id}/latency", json={"rounds": 40})
    assert asked.status_code == 202
    assert asked.headers["location"] == f"/v1/benchmarks/{asked.json()['id']}"
    assert (asked.json()["status"], asked.json()["spec"]["rounds"]) == ("queued", 40)
    assert either.http.get(f"/v1/jobs/{job_id}/latency").json() == asked.json()
    assert either.http.get(asked.headers["location"]).json() == asked.json()
    plain = either.http.post(f"/v1/jobs/{job_id}/latency")
    assert plain.json()["spec"]["rounds"] == 30
    # A measurement is no job: neither listed nor shown as one.
    assert len(either.http.get("/v1/jobs").json()["data"]) == 2
    check_problem(either.http.get(f"/v1/jobs/{asked.json()['id']}"), 404, "NOT_FOUND")


def test_where_the_student_taught_itself_there_is_nothing_to_time(either: Any, check_problem: Any) -> None:
    job_id = either.succeeded(teacher=None, method={"strategy": "self_distillation"})
    problem = check_problem(either.http.post(f"/v1/jobs/{job_id}/latency"), 409, "WRONG_STATE")
    assert "no teacher" in problem.detail
    assert "had a teacher" in problem.hint
    check_problem(either.http.get(f"/v1/jobs/{job_id}/latency"), 404, "NOT_FOUND")
    (listed,) = either.http.get("/v1/jobs").json()["data"]
    assert (listed["teacher"], listed["student"]) == ("", "seed_student")


def test_a_job_is_found_by_each_of_its_teachers(either: Any) -> None:
    members = [{"architecture": name, "train": {"epochs": 1}} for name in ("resnet20", "resnet8x4")]
    job = either.submit(teacher={"members": members, "merge": "confidence"})
    either.submit()
    assert job["spec"]["teacher"]["merge"] == "confidence"
    for name, found in (("resnet20", 1), ("resnet8x4", 1), ("seed_student", 2), ("resnet8", 0), ("resnet2", 0)):
        listed = either.http.get("/v1/jobs", params={"architecture": name}).json()["data"]
        assert len(listed) == found
    (listed,) = either.http.get("/v1/jobs?architecture=resnet20").json()["data"]
    assert listed["teacher"] == "resnet20 + resnet8x4"


def test_the_hint_goes_out_and_a_broker_that_is_away_costs_no_job(
    launch: Any, redis_url: str, unused_port: Any, wait_until: Any
) -> None:
    import redis

    with launch(redis_url=redis_url) as live:
        live.submit(resources={"queue": "gpu.small"})
        with redis.Redis.from_url(redis_url) as broker:
            wait_until(lambda: broker.llen("dk:gpu.small") == 1)
    with launch(redis_url=f"redis://127.0.0.1:{unused_port()}/0") as live:
        job = live.submit()
        assert job["status"] == "queued"
        assert live.http.get("/readyz").json()["checks"]["broker"] != "ok"
        assert live.http.get("/readyz").status_code == 200
        with live.worker.database.transaction() as session:
            assert job["id"] in [hint.payload["job_id"] for hint in outbox.due(session, kinds=["hint"], limit=10)]


SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
