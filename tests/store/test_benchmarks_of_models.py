"""Benchmarks of any models: what they may name, that they are work like any other, and what keeps them possible."""

from typing import Any

import pytest

from distillery.errors import Fenced, InvalidPageToken, InvalidSpec, NotFound, WrongState
from distillery.spec import BenchmarkSpec, LatencySpec, parse_benchmark
from distillery.views import Benchmark
from store import benchmarks, files, jobs, leases, projects, removal
from tests.latency_reports import against
from tests.store.test_models_and_benchmarks import facts, succeeded

JOB = "job_" + "0" * 26


def ask(shop: Any, *models: dict[str, Any], **changes: Any) -> Benchmark:
    asked: Benchmark = shop.do(benchmarks.request_of_models, parse_benchmark({"models": list(models), **changes}))
    return asked


def refused(shop: Any, *models: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as told:
        ask(shop, *models, **changes)
    assert all(problem.hint for problem in told.value.problems)
    return [(problem.pointer, problem.code) for problem in told.value.problems]


def of_shape(shop: Any, **shape: Any) -> str:
    """A job whose student has other classes, or reads other images."""
    claim = shop.claimed()
    shop.deliver(claim, "student.safetensors")
    shop.do(leases.succeed, claim, summary="done", models=[facts("student", **shape)])
    return str(claim.id)


def test_a_benchmark_is_work_like_any_other(shop: Any) -> None:
    subject = succeeded(shop)
    student = shop.job(subject.id).student_model_id
    asked = ask(
        shop, {"job": subject.id, "role": "teacher"}, {"model": student, "name": "small"},
        name="both", measure={"batch_sizes": [1, 8]}, labels={"project": "flowers"}, queue="default",
    )  # fmt: skip
    assert (asked.job_id, asked.status, asked.name, asked.labels) == (None, "queued", "both", {"project": "flowers"})
    assert asked.spec == LatencySpec(batch_sizes=(1, 8))
    assert [(each.name, each.role, each.architecture, each.accuracy) for each in asked.models] == [
        (f"{subject.id}/teacher", "teacher", "seed_teacher", 0.91), ("small", "student", "seed_student", 0.91),
    ]  # fmt: skip
    claim = shop.claim(asked.id)
    assert (claim.kind, claim.subject_id, claim.latency) == ("benchmark", None, None)
    assert isinstance(claim.asked, BenchmarkSpec)
    assert (claim.asked.reference, [each.name for each in claim.asked.models]) == (
        f"{subject.id}/teacher", [f"{subject.id}/teacher", "small"],
    )  # fmt: skip
    assert claim.asked.dataset == subject.spec.dataset.model_copy(update={"image_size": 32})
    shop.deliver(claim, "benchmark_samples.csv")
    result = against(f"{subject.id}/teacher", {f"{subject.id}/teacher": 2.0, "small": 1.0})
    shop.do(
        leases.succeed,
        claim,
        summary="measured",
        keep=lambda s: benchmarks.keep(s, benchmark_id=asked.id, result=result),
    )
    seen = shop.see(benchmarks.get, asked.id)
    assert (seen.status, seen.result) == ("succeeded", result)
    assert shop.see(benchmarks.results, [asked.id]) == {asked.id: result}
    with pytest.raises(NotFound):
        shop.job(asked.id)


def test_a_benchmark_that_is_lost_goes_to_the_next_worker_and_the_first_writes_nothing_more(shop: Any) -> None:
    asked = ask(shop, {"job": succeeded(shop).id})
    first = shop.claim(asked.id)
    shop.expire(asked.id)
    assert shop.do(leases.reap, lease=shop.lease) == [asked.id]
    shop.no_backoff(asked.id)
    second = shop.claim(asked.id)
    assert (first.attempt, second.attempt) == (1, 2)
    keep = {"keep": lambda s: benchmarks.keep(s, benchmark_id=asked.id, result=against("a", {"a": 1.0, "b": 1.0}))}
    with pytest.raises(Fenced):
        shop.do(leases.succeed, first, summary="late", **keep)
    assert shop.see(benchmarks.get, asked.id).result is None
    shop.do(leases.succeed, second, summary="in time", **keep)
    assert shop.see(benchmarks.get, asked.id).result is not None


def test_what_a_benchmark_names_must_be_there_and_be_a_network(shop: Any) -> None:
    running, done = shop.claimed(), succeeded(shop)
    assert refused(
        shop, {"job": done.id}, {"job": running.id}, {"job": JOB}, {"model": "mdl_" + "0" * 26},
        {"job": done.id, "role": "baseline"},
    ) == [
        ("/models/1/job", "WRONG_STATE"), ("/models/2/job", "NOT_FOUND"), ("/models/3/model", "NOT_FOUND"),
        ("/models/4/role", "WRONG_STATE"),
    ]  # fmt: skip
    assert shop.sql("SELECT count(*) AS rows FROM benchmarks")[0].rows == 0


def test_models_of_other_classes_or_images_are_refused(shop: Any) -> None:
    first = {"job": of_shape(shop)}
    others = [{"job": of_shape(shop, **shape)} for shape in (
        {"classes": ("cat", "dog", "cow")}, {"classes": ("dog", "cat")}, {"image_size": 64}, {"channels": 1},
        {"classes": ("0", "1")},
    )]  # fmt: skip
    assert refused(shop, first, *others) == [
        ("/models/1", "CLASSES_DIFFER"), ("/models/2", "CLASSES_DIFFER"), ("/models/3", "INPUTS_DIFFER"),
        ("/models/4", "INPUTS_DIFFER"),
    ]  # fmt: skip
    assert ask(shop, first, others[-1]).status == "queued"  # classes that are mere numbers are only counted


def test_data_of_other_images_is_refused(shop: Any) -> None:
    model = {"job": of_shape(shop)}
    assert refused(shop, model, dataset={"kind": "digits", "image_size": 8}) == [
        ("/dataset/image_size", "INPUTS_DIFFER")
    ]
    assert refused(shop, model, dataset={"id": "dts_" + "0" * 26}) == [("/dataset/id", "NOT_FOUND")]


def test_what_a_waiting_benchmark_needs_is_not_deleted(shop: Any) -> None:
    one, other = succeeded(shop), succeeded(shop)
    model = shop.job(other.id).student_model_id
    asked = ask(shop, {"job": one.id}, {"model": model, "name": "other"})
    for delete, what in ((removal.delete_job, one.id), (removal.delete_job, other.id), (removal.delete_model, model)):
        with pytest.raises(WrongState, match=f"needed by {asked.id}"):
            shop.do(delete, what)
    with pytest.raises(WrongState, match="only what has ended"):
        shop.do(removal.delete_benchmark, asked.id)
    assert shop.do(benchmarks.cancel, asked.id).status == "cancelled"
    shop.do(removal.delete_model, model)
    shop.do(removal.delete_job, one.id)
    assert shop.see(benchmarks.get, asked.id).models[0].job_id == one.id  # what it knew stays
    shop.do(removal.delete_benchmark, asked.id)
    for verb in (removal.delete_benchmark, benchmarks.cancel):
        with pytest.raises(NotFound):
            shop.do(verb, asked.id)


def test_a_running_benchmark_is_asked_to_stop(shop: Any) -> None:
    asked = ask(shop, {"job": succeeded(shop).id})
    claim = shop.claim(asked.id)
    assert shop.do(benchmarks.cancel, asked.id).status == "cancelling"
    shop.do(leases.cancelled, claim)
    with pytest.raises(WrongState, match="nothing left to cancel"):
        shop.do(benchmarks.cancel, asked.id)
    with pytest.raises(WrongState, match="has no result"):
        shop.see(benchmarks.results, [asked.id])


def test_the_files_of_a_deleted_benchmark_are_deleted(shop: Any) -> None:
    asked = ask(shop, {"job": succeeded(shop).id})
    claim = shop.claim(asked.id)
    shop.deliver(claim, "benchmark_samples.csv")
    shop.do(leases.succeed, claim, summary="done")
    assert [each.name for each in shop.see(files.artifacts, asked.id)] == ["benchmark_samples.csv"]
    shop.do(removal.delete_benchmark, asked.id)
    (told,) = shop.sql("SELECT payload FROM outbox WHERE kind = 'delete'")
    assert "benchmark_samples.csv" in str(told.payload)


def test_benchmarks_come_in_pages_by_label_and_state(shop: Any) -> None:
    subject = succeeded(shop)
    flowers = [ask(shop, {"job": subject.id}, labels={"project": "flowers"}).id for _ in range(3)]
    ask(shop, {"job": subject.id}, labels={"project": "birds"})
    of_job = shop.do(benchmarks.request, subject.id, spec=LatencySpec()).id
    found = shop.see(benchmarks.page, page_size=2, label="project=flowers")
    rest = shop.see(benchmarks.page, page_size=2, label="project=flowers", token=found.next_page_token)
    assert [each.id for each in (*found.data, *rest.data)] == flowers[::-1]
    assert found.data[0].models == (f"{subject.id}/student",)
    with pytest.raises(InvalidPageToken):
        shop.see(benchmarks.page, page_size=2, label="project=birds", token=found.next_page_token)
    whole = shop.see(benchmarks.page).data
    assert (len(whole), whole[0].id, whole[0].job_id, whole[0].models) == (
        5, of_job, subject.id, ("teacher", "student"),
    )  # fmt: skip
    assert len(shop.see(benchmarks.page, label="project").data) == 4
    claim = shop.claim(flowers[0])
    keep = {"keep": lambda s: benchmarks.keep(s, benchmark_id=claim.id, result=against("a", {"a": 1.0, "b": 1.0}))}
    shop.do(leases.succeed, claim, summary="done", **keep)
    (done,) = shop.see(benchmarks.page, status="succeeded").data
    assert (done.id, done.fingerprint) == (flowers[0], "f" * 64)
    assert len(shop.see(jobs.page).data) == 1


def test_a_project_knows_its_students(shop: Any) -> None:
    claim = shop.claimed(labels={"project": "flowers"}, name="rose")
    for name in ("student.safetensors", "teacher.safetensors", "latency.json"):
        shop.deliver(claim, name)
    shop.do(leases.succeed, claim, summary="done", models=[facts("teacher"), facts("student")])
    shop.claimed(labels={"project": "birds"})
    (job,) = shop.see(projects.measured_jobs, label="project=flowers")
    assert (job.student.name, job.student.accuracy, job.key) == ("rose", 0.91, f"jobs/{claim.id}/a1/latency.json")
    asked = ask(
        shop, {"job": claim.id, "role": "teacher", "name": "t"}, {"job": claim.id, "name": "s"},
        labels={"project": "flowers"},
    )  # fmt: skip
    assert shop.see(projects.measured_benchmarks, label="project=flowers") == []
    running = shop.claim(asked.id)
    keep = {"keep": lambda s: benchmarks.keep(s, benchmark_id=asked.id, result=against("t", {"t": 2.0, "s": 1.0}))}
    shop.do(leases.succeed, running, summary="done", **keep)
    (found,) = shop.see(projects.measured_benchmarks, label="project=flowers")
    assert list(found.source.students) == ["s"]
    assert (found.source.students["s"].job_id, found.source.students["s"].accuracy) == (claim.id, 0.91)
    assert shop.see(projects.measured_jobs, label="project=birds") == []
