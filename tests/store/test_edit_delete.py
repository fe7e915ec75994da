"""Changing what does not change the result, and deleting for good."""

from typing import Any

import pytest

from distillery.errors import NotFound, WrongState
from distillery.spec import LatencySpec
from store import benchmarks, jobs, leases, removal, successors, wishes


class Facts:
    """A student worth keeping."""

    role, artifact, architecture, classes, image_size, channels = (
        "student",
        "student.safetensors",
        "seed_student",
        (),
        8,
        1,
    )
    mean, std, accuracy, sha256 = (0.5,), (0.5,), 0.5, "ab" * 32


def succeeded(shop: Any) -> str:
    claim = shop.claimed()
    shop.save(claim, 5)
    shop.deliver(claim)
    shop.do(leases.succeed, claim, summary="done", models=[Facts()])
    return str(claim.id)


def doomed(shop: Any) -> set[str]:
    return {str(row.payload) for row in shop.sql("SELECT payload FROM outbox WHERE kind = 'delete'")}


def test_name_labels_and_priority_are_changed_and_told(shop: Any) -> None:
    job = shop.submit(labels={"team": "vision", "run": "1"})
    changed = shop.do(wishes.edit, job.id, name="better", labels={"run": None, "note": "x"}, priority=90)
    assert (changed.name, changed.labels) == ("better", {"team": "vision", "note": "x"})
    assert shop.do(jobs.find, job.id).edition == 2
    assert shop.event_types(job.id) == ["queued", "edited"]
    first = shop.claim()
    assert first.id == job.id


def test_a_change_that_changes_nothing_is_no_event(shop: Any) -> None:
    job = shop.submit()
    shop.do(wishes.edit, job.id, name=job.name)
    assert (shop.event_types(job.id), shop.do(jobs.find, job.id).edition) == (["queued"], 1)


def test_the_priority_is_that_of_the_next_claim(shop: Any) -> None:
    shop.submit()
    later = shop.submit()
    shop.do(wishes.edit, later.id, priority=99)
    assert shop.claim().id == later.id


def test_what_has_ended_can_be_renamed_and_its_last_event_stays_its_end(shop: Any) -> None:
    job_id = succeeded(shop)
    shop.do(wishes.edit, job_id, name="the good one")
    assert shop.event_types(job_id)[-1] == "succeeded"
    with pytest.raises(WrongState, match="priority means nothing"):
        shop.do(wishes.edit, job_id, priority=1)


def test_a_deleted_job_is_gone_with_all_that_hangs_on_it_and_its_files_follow(shop: Any) -> None:
    job_id = succeeded(shop)
    measured = shop.do(benchmarks.request, job_id, spec=LatencySpec())
    shop.do(wishes_of_a_measurement, measured.id, shop)
    shop.do(removal.delete_job, job_id)
    with pytest.raises(NotFound):
        shop.job(job_id)
    for table in ("jobs", "attempts", "events", "checkpoints", "artifacts", "models", "benchmarks"):
        assert shop.sql(f"SELECT * FROM {table}") == [], table  # noqa: S608
    assert len(doomed(shop)) == 2, "a checkpoint and an artifact"


def wishes_of_a_measurement(session: Any, measured_id: str, shop: Any) -> None:
    claim = leases.claim(session, worker="w", queues=["default"], lease_seconds=60, job_id=measured_id)
    assert claim is not None
    leases.release(session, claim)
    again = leases.claim(session, worker="w", queues=["default"], lease_seconds=60, job_id=measured_id)
    assert again is not None
    leases.succeed(session, again, summary="measured", models=())


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_what_has_not_ended_is_not_deleted(shop: Any, state: str) -> None:
    job_id = shop.submit().id
    if state == "running":
        shop.claim(job_id)
    elif state == "paused":
        shop.do(wishes.pause, job_id)
    with pytest.raises(WrongState, match=f"is {state}"):
        shop.do(removal.delete_job, job_id)


@pytest.mark.parametrize("need", ["teacher job", "teacher model", "measurement", "retry"])
def test_what_is_needed_is_not_deleted_and_the_refusal_names_who_needs_it(shop: Any, need: str) -> None:
    job_id = succeeded(shop)
    model = shop.job(job_id).student_model_id
    if need == "teacher job":
        needing = shop.submit(teacher={"architecture": "seed_student", "job": job_id}).id
    elif need == "teacher model":
        needing = shop.submit(teacher={"architecture": "seed_student", "model": model}).id
    elif need == "measurement":
        needing = shop.do(benchmarks.request, job_id, spec=LatencySpec()).id
    else:
        shop.sql("UPDATE jobs SET status = 'failed' WHERE id = :id", id=job_id)
        needing = shop.do(successors.retry, job_id).id
    with pytest.raises(WrongState, match=f"is needed by {needing}"):
        shop.do(removal.delete_job, job_id)
    assert shop.job(job_id)
    shop.sql("UPDATE jobs SET status = 'cancelled', finished_at = 1 WHERE id = :id", id=needing)
    shop.do(removal.delete_job, job_id)


def test_a_deleted_model_leaves_its_weights_and_its_job(shop: Any) -> None:
    job_id = succeeded(shop)
    model = str(shop.job(job_id).student_model_id)
    shop.do(removal.delete_model, model)
    assert shop.job(job_id).student_model_id is None
    assert doomed(shop) == set()
    with pytest.raises(NotFound):
        shop.do(removal.delete_model, model)


def test_a_model_that_is_to_teach_is_not_deleted(shop: Any) -> None:
    model = shop.job(succeeded(shop)).student_model_id
    shop.submit(teacher={"architecture": "seed_student", "model": model})
    with pytest.raises(WrongState, match="is needed by"):
        shop.do(removal.delete_model, model)
