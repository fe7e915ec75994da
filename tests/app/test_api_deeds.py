"""Pause, resume, retry, clone, change and delete, over the wire."""

from typing import Any

import pytest

from store import leases


def test_a_job_is_paused_and_resumed(either: Any, check_problem: Any) -> None:
    job = either.submit()
    paused = either.http.post(f"/v1/jobs/{job['id']}:pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert either.http.get("/v1/jobs", params={"status": "paused"}).json()["data"][0]["id"] == job["id"]
    assert either.http.post(f"/v1/jobs/{job['id']}:resume").json()["status"] == "queued"
    problem = check_problem(either.http.post(f"/v1/jobs/{job['id']}:resume"), 409, "WRONG_STATE")
    assert "is queued, not paused" in problem.detail


def test_a_running_job_is_pausing_until_its_worker_has_saved(alone: Any) -> None:
    job = alone.submit()
    claim = alone.worker.claim(job["id"])
    assert alone.http.post(f"/v1/jobs/{job['id']}:pause").json()["status"] == "pausing"
    alone.worker.do(leases.paused, claim)
    seen = alone.http.get(f"/v1/jobs/{job['id']}").json()
    assert (seen["status"], seen["attempts"][0]["outcome"]) == ("paused", "paused")


def test_a_retry_is_told_where_it_comes_from(alone: Any, check_problem: Any) -> None:
    job = alone.submit()
    check_problem(alone.http.post(f"/v1/jobs/{job['id']}:retry"), 409, "WRONG_STATE")
    alone.http.post(f"/v1/jobs/{job['id']}:cancel")
    answer = alone.http.post(f"/v1/jobs/{job['id']}:retry", json={"max_seconds": 60})
    assert answer.status_code == 201
    new = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}"
    assert (new["retry_of"], new["status"]) == (job["id"], "queued")
    assert new["resolved_spec"]["training"]["seed"] == job["resolved_spec"]["training"]["seed"]
    assert new["spec"]["resources"]["max_seconds"] == 60
    problem = check_problem(
        alone.http.post(f"/v1/jobs/{job['id']}:retry", json={"max_second": 60}), 422, "INVALID_SPEC"
    )
    assert "max_seconds" in problem.errors[0].hint


@pytest.mark.parametrize(
    ("patch", "path", "value"),
    [
        ({}, ("name",), "distillation"),
        ({"name": "again", "training": {"epochs": 3}}, ("training", "epochs"), 3),
        ({"method": {"preset": "dkd"}}, ("method", "preset"), "dkd"),
        ({"training": {"optimizer": {"name": "adamw"}}}, ("training", "optimizer", "lr"), 0.001),
        ({"training": {"optimizer": {"lr": 0.2}}}, ("training", "optimizer", "momentum"), 0.9),
        ({"teacher": {"train": {"epochs": 5}}}, ("teacher", "architecture"), "seed_teacher"),
        ({"baseline": False, "labels": None}, ("labels",), {}),
    ],
)
def test_a_clone_has_the_spec_with_the_changes(alone: Any, patch: Any, path: tuple[str, ...], value: Any) -> None:
    job = alone.submit()
    answer = alone.http.post(f"/v1/jobs/{job['id']}:clone", json=patch)
    assert answer.status_code == 201, answer.text
    found: Any = answer.json()["spec"]
    for name in path:
        found = found[name]
    assert found == value
    assert answer.json()["cloned_from"] == job["id"]


def test_a_clone_keeps_what_was_sent_and_not_changed(alone: Any) -> None:
    job = alone.submit(
        dataset={"name": "digits", "validation": 0.2}, training={"optimizer": {"name": "sgd", "lr": 0.2}, "epochs": 4}
    )
    patch = {"dataset": {"name": "mnist"}, "teacher": {"architecture": "resnet20"}, "training": {"epochs": None}}
    answer = alone.http.post(f"/v1/jobs/{job['id']}:clone", json=patch)
    assert answer.status_code == 201, answer.text
    spec = answer.json()["spec"]
    assert (spec["dataset"]["name"], spec["dataset"]["validation"]) == ("mnist", 0.2)
    assert (spec["teacher"]["architecture"], spec["teacher"]["train"]["epochs"]) == ("resnet20", 2)
    assert spec["training"]["optimizer"]["lr"] == 0.2
    assert spec["training"]["epochs"] not in (4, None)


def test_a_clone_may_be_of_another_kind_where_defaults_were_not_sent(alone: Any) -> None:
    job = alone.submit()
    patch = {"teacher": None, "method": {"strategy": "self_distillation"}}
    answer = alone.http.post(f"/v1/jobs/{job['id']}:clone", json=patch)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["method"]["strategy"] == "self_distillation"


def test_a_clone_draws_its_seed_anew_unless_one_was_sent(alone: Any) -> None:
    for training, same in (({}, False), ({"seed": 7}, True)):
        job = alone.submit(training=training)
        new = alone.http.post(f"/v1/jobs/{job['id']}:clone").json()
        seeds = [each["resolved_spec"]["training"]["seed"] for each in (job, new)]
        assert (seeds[0] == seeds[1]) is same


def test_a_clone_is_checked_like_any_job(alone: Any, check_problem: Any) -> None:
    job = alone.submit()
    path = f"/v1/jobs/{job['id']}:clone"
    problem = check_problem(
        alone.http.post(path, json={"student": {"architecture": "seed_studnt"}}), 422, "INVALID_SPEC"
    )
    assert problem.errors[0].pointer == "/student/architecture"
    check_problem(alone.http.post(path, json={"nonsense": 1}), 422, "INVALID_SPEC")


def test_changes_come_through_and_outdated_ones_do_not(either: Any, check_problem: Any) -> None:
    job = either.submit(labels={"a": "1", "b": "2"})
    path = f"/v1/jobs/{job['id']}"
    tag = either.http.get(path).headers["etag"]
    first = either.http.patch(path, json={"labels": {"a": None, "c": "3"}}, headers={"If-Match": tag})
    assert (first.status_code, first.json()["labels"]) == (200, {"b": "2", "c": "3"})
    late = either.http.patch(path, json={"name": "late"}, headers={"If-Match": tag})
    problem = check_problem(late, 412, "PRECONDITION_FAILED")
    assert "edition 2" in problem.detail
    for priority, form in enumerate(("{fresh}", "*", "{tag}, {fresh}")):
        matching = form.format(tag=tag, fresh=either.http.get(path).headers["etag"])
        answer = either.http.patch(path, json={"priority": priority}, headers={"If-Match": matching})
        assert (answer.status_code, answer.json()["priority"]) == (200, priority), (matching, answer.text)
    assert either.http.patch(path, json={"name": "without a condition"}).json()["name"] == "without a condition"


def test_progress_does_not_outdate_a_change(alone: Any) -> None:
    job = alone.submit()
    path = f"/v1/jobs/{job['id']}"
    tag = alone.http.get(path).headers["etag"]
    claim = alone.worker.claim(job["id"])
    alone.worker.do(leases.beat, claim, lease_seconds=60, step=5)
    assert alone.http.get(path).headers["etag"] != tag
    assert alone.http.patch(path, json={"name": "new"}, headers={"If-Match": tag}).status_code == 200


@pytest.mark.parametrize("tag", ["e1", '"e1-xyz"', 'W/"e1-' + "0" * 32 + '"', '""'])
def test_what_is_no_tag_of_a_job_is_told(alone: Any, check_problem: Any, tag: str) -> None:
    job = alone.submit()
    answer = alone.http.patch(f"/v1/jobs/{job['id']}", json={"name": "x"}, headers={"If-Match": tag})
    check_problem(answer, 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"nam": "x"}, "/nam"),
        ({"priority": 101}, "/priority"),
        ({"labels": {"": "x"}}, "/labels/"),
        ({"name": ""}, "/name"),
    ],
)
def test_bad_changes_are_told_with_their_place(alone: Any, check_problem: Any, changes: Any, pointer: str) -> None:
    job = alone.submit()
    problem = check_problem(alone.http.patch(f"/v1/jobs/{job['id']}", json=changes), 422, "INVALID_SPEC")
    assert problem.errors[0].pointer.startswith(pointer)


def test_deleting_is_guarded_and_final(either: Any, check_problem: Any) -> None:
    job_id = either.succeeded()
    model = either.http.get(f"/v1/jobs/{job_id}").json()["student_model_id"]
    needing = either.submit(teacher={"architecture": "seed_student", "model": model})["id"]
    for path in (f"/v1/jobs/{job_id}", f"/v1/models/{model}"):
        problem = check_problem(either.http.delete(path), 409, "WRONG_STATE")
        assert needing in problem.detail
    either.http.post(f"/v1/jobs/{needing}:cancel")
    assert either.http.delete(f"/v1/models/{model}").status_code == 204
    answer = either.http.delete(f"/v1/jobs/{job_id}", headers={"If-Match": "*"})
    assert (answer.status_code, answer.content) == (204, b"")
    for path in (f"/v1/jobs/{job_id}", f"/v1/models/{model}", f"/v1/jobs/{job_id}/artifacts/student.safetensors"):
        check_problem(either.http.get(path), 404, "NOT_FOUND")
    check_problem(either.http.delete(f"/v1/jobs/{job_id}"), 404, "NOT_FOUND")


def test_a_running_job_is_not_deleted(alone: Any, check_problem: Any) -> None:
    job = alone.submit()
    alone.worker.claim(job["id"])
    problem = check_problem(alone.http.delete(f"/v1/jobs/{job['id']}"), 409, "WRONG_STATE")
    assert problem.hint == "Cancel it first."
