"""Networks that jobs leave behind, and the measurements that are made of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from distillery.errors import InvalidPageToken, InvalidSpec, NotFound, WrongState
from distillery.report import LatencyReport
from distillery.spec import LatencySpec
from store import benchmarks, files, jobs, leases, models, wishes

SHA = "ab" * 32


def facts(role: str = "student", **changes: Any) -> Any:
    told = {
        "role": role, "artifact": f"{role}.safetensors", "architecture": f"seed_{role}", "classes": ("cat", "dog"),
        "image_size": 32, "channels": 3, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "accuracy": 0.91,
        "sha256": SHA,
    }  # fmt: skip
    return SimpleNamespace(**told | changes)


def succeeded(shop: Any) -> Any:
    claim = shop.claimed()
    shop.deliver(claim, "student.safetensors")
    shop.deliver(claim, "teacher.safetensors")
    shop.do(leases.succeed, claim, summary="done", models=[facts("teacher"), facts("student")])
    return claim


def test_a_job_leaves_its_models(shop: Any) -> None:
    claim = succeeded(shop)
    student = shop.see(models.get, shop.job(claim.id).student_model_id)
    assert (student.role, student.architecture, student.classes, student.accuracy) == (
        "student", "seed_student", ("cat", "dog"), 0.91,
    )  # fmt: skip
    assert shop.see(models.weights_key, student.id) == f"jobs/{claim.id}/a1/student.safetensors"
    page = shop.see(models.page, page_size=10)
    assert {model.role for model in page.data} == {"teacher", "student"}


def test_a_model_without_its_weights_does_not_succeed(shop: Any) -> None:
    claim = shop.claimed()
    with pytest.raises(WrongState, match=r"student.safetensors, which it has not delivered"):
        shop.do(leases.succeed, claim, summary="done", models=[facts()])
    assert shop.job(claim.id).status == "running"
    assert shop.see(models.page).data == ()


def test_a_student_can_teach(shop: Any) -> None:
    claim = succeeded(shop)
    model_id = shop.job(claim.id).student_model_id
    for source in ({"job": claim.id}, {"model": model_id}):
        job = shop.submit(teacher={"architecture": "seed_student", **source})
        assert shop.see(models.for_teacher, job.spec.teacher).id == model_id
    assert shop.see(models.for_teacher, claim.spec.teacher) is None


def test_a_teacher_of_another_architecture_is_a_bad_spec(shop: Any) -> None:
    claim = succeeded(shop)
    with pytest.raises(InvalidSpec, match="seed_student") as refused:
        shop.submit(teacher={"architecture": "seed_teacher", "job": claim.id})
    assert [problem.pointer for problem in refused.value.problems] == ["/teacher/architecture"]


def test_the_references_of_every_teacher_are_looked_at(shop: Any) -> None:
    claim, running = succeeded(shop), shop.claimed()
    model_id = shop.job(claim.id).student_model_id
    good = [
        {"architecture": "seed_student", "job": claim.id},
        {"architecture": "seed_student", "model": model_id},
        {"architecture": "seed_teacher", "train": {"epochs": 1}},
    ]
    assert shop.submit(teacher={"members": good, "merge": "mean_probabilities"}).status == "queued"
    bad = [
        good[0],
        {"architecture": "seed_student", "job": running.id},
        {"architecture": "seed_student", "model": "mdl_" + "0" * 26},
        {"architecture": "seed_student", "job": "job_" + "0" * 26},
        {"architecture": "resnet20", "model": model_id},
    ]
    with pytest.raises(InvalidSpec) as refused:
        shop.submit(teacher=bad)
    assert [(problem.pointer, problem.code) for problem in refused.value.problems] == [
        ("/teacher/members/1/job", "WRONG_STATE"),
        ("/teacher/members/2/model", "NOT_FOUND"),
        ("/teacher/members/3/job", "NOT_FOUND"),
        ("/teacher/members/4/architecture", "WRONG_ARCHITECTURE"),
    ]
    assert refused.value.problems[3].hint == "Set teacher.members.4.architecture to 'seed_student'."
    assert all(problem.hint for problem in refused.value.problems)


def test_a_job_leaves_each_of_its_teachers(shop: Any) -> None:
    claim = shop.claimed(teacher=[{"architecture": "seed_teacher", "train": {"epochs": 1}}] * 2)
    names = ("teacher1", "teacher2", "assistant1", "student")
    for name in names:
        shop.deliver(claim, f"{name}.safetensors")
    told = [facts("student" if name == "student" else "teacher", artifact=f"{name}.safetensors") for name in names]
    shop.do(leases.succeed, claim, summary="done", models=told)
    kept = shop.see(models.page, page_size=10).data
    assert sorted(model.role for model in kept) == ["student", "teacher", "teacher", "teacher"]
    keys = {shop.see(models.weights_key, model.id) for model in kept}
    assert keys == {f"jobs/{claim.id}/a1/{name}.safetensors" for name in names}
    student = shop.see(models.get, shop.job(claim.id).student_model_id)
    assert student.role == "student"


def test_models_come_in_pages(shop: Any) -> None:
    for _ in range(2):
        succeeded(shop)
    first = shop.see(models.page, page_size=3)
    rest = shop.see(models.page, page_size=3, token=first.next_page_token)
    assert len({model.id for model in (*first.data, *rest.data)}) == 4
    assert rest.next_page_token is None
    with pytest.raises(InvalidPageToken):
        shop.see(jobs.page, page_size=3, token=first.next_page_token)


@pytest.mark.parametrize("model_id", ["mdl_none", "\x00"])
def test_no_such_model(shop: Any, model_id: str) -> None:
    with pytest.raises(NotFound, match="There is no model"):
        shop.see(models.get, model_id)


def test_a_measurement_is_work_like_any_other(shop: Any) -> None:
    subject = succeeded(shop)
    asked = shop.do(benchmarks.request, subject.id, spec=LatencySpec(batch_sizes=(1, 8)))
    assert (asked.job_id, asked.status, asked.result) == (subject.id, "queued", None)
    claim = shop.claim(asked.id)
    assert (claim.kind, claim.subject_id, claim.spec) == ("latency", subject.id, subject.spec)
    assert claim.latency is not None and claim.latency.batch_sizes == (1, 8)
    shop.deliver(claim, "latency_samples.parquet")
    result = LatencyReport(
        protocol="1", comparisons=(), environment={"cpu": "x"}, weights_sha256={"teacher": SHA}, repeat_with="-"
    )
    shop.do(leases.succeed, claim, summary="measured", benchmark_result=result)
    seen = shop.see(benchmarks.latest, subject.id)
    assert (seen.id, seen.status, seen.result) == (asked.id, "succeeded", result)
    assert seen.finished_at is not None
    assert [each.name for each in shop.see(files.artifacts, asked.id)] == ["latency_samples.parquet"]


def test_a_student_that_taught_itself_is_not_measured(shop: Any) -> None:
    claim = shop.claimed(teacher=None, method={"strategy": "self_distillation"})
    shop.deliver(claim, "student.safetensors")
    shop.do(leases.succeed, claim, summary="done", models=[facts()])
    with pytest.raises(WrongState, match="no teacher to time it against") as refused:
        shop.do(benchmarks.request, claim.id, spec=LatencySpec())
    assert "measure a job that had a teacher" in refused.value.hint
    assert shop.sql("SELECT count(*) AS rows FROM jobs")[0].rows == 1


def test_a_measurement_is_found_by_its_id(shop: Any) -> None:
    asked = shop.do(benchmarks.request, succeeded(shop).id, spec=LatencySpec())
    assert shop.see(benchmarks.get, asked.id) == asked
    for unknown in ("bmk_none", "\x00"):
        with pytest.raises(NotFound, match="There is no latency measurement"):
            shop.see(benchmarks.get, unknown)


def test_a_measurement_is_no_job(shop: Any) -> None:
    asked = shop.do(benchmarks.request, succeeded(shop).id, spec=LatencySpec())
    with pytest.raises(NotFound):
        shop.job(asked.id)
    with pytest.raises(NotFound):
        shop.do(wishes.cancel, asked.id)
    assert len(shop.see(jobs.page, page_size=10).data) == 1


def test_the_last_measurement_is_shown(shop: Any) -> None:
    subject = succeeded(shop)
    with pytest.raises(NotFound, match="No latency measurement"):
        shop.see(benchmarks.latest, subject.id)
    asked = [shop.do(benchmarks.request, subject.id, spec=LatencySpec(seed=seed)) for seed in range(3)]
    shop.sql("UPDATE jobs SET created_at = created_at + 10 WHERE id = :id", id=asked[1].id)
    assert shop.see(benchmarks.latest, subject.id).spec.seed == 1


def test_a_measurement_that_keeps_crashing_says_so(shop: Any) -> None:
    subject = succeeded(shop)
    asked = shop.do(benchmarks.request, subject.id, spec=LatencySpec())
    for _ in range(3):
        shop.crash(shop.claim(asked.id))
        shop.no_backoff(asked.id)
    seen = shop.see(benchmarks.latest, subject.id)
    assert seen.status == "crashed" and seen.error is not None


def test_there_is_nothing_to_measure_before_success(shop: Any) -> None:
    claim = shop.claimed()
    with pytest.raises(WrongState, match="is running"):
        shop.do(benchmarks.request, claim.id, spec=LatencySpec())
    for verb in (benchmarks.latest,):
        with pytest.raises(NotFound):
            shop.see(verb, "job_that_never_was")
