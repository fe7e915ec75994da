"""Changing what does not change the result, and deleting for good."""

import threading
from typing import Any

import pytest

from distillery.errors import InvalidRequest, InvalidSpec, NotFound, WrongState
from distillery.spec import LatencySpec, parse, resolve
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
    assert (changed.name, changed.labels, changed.priority) == ("better", {"team": "vision", "note": "x"}, 90)
    assert shop.job(job.id).model_dump(exclude={"usage"}) == changed.model_dump(exclude={"usage"})
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


def test_a_student_that_is_to_teach_by_the_name_of_its_job_is_not_deleted(shop: Any) -> None:
    job_id = succeeded(shop)
    needing = shop.submit(teacher={"architecture": "seed_student", "job": job_id}).id
    with pytest.raises(WrongState, match=f"is needed by {needing}"):
        shop.do(removal.delete_model, shop.job(job_id).student_model_id)


def test_labels_that_come_one_after_the_other_are_not_more_than_a_spec_may_have(shop: Any) -> None:
    job = shop.submit(labels={f"old-{number}": "" for number in range(40)})
    with pytest.raises(InvalidRequest, match="would have 65 labels; 64 are the most"):
        shop.do(wishes.edit, job.id, labels={f"new-{number}": "" for number in range(25)})
    swapped = {"old-0": None} | {f"new-{number}": "" for number in range(25)}
    assert len(shop.do(wishes.edit, job.id, labels=swapped).labels) == 64


@pytest.mark.parametrize("what", ["job", "model"])
def test_what_a_job_that_is_just_being_submitted_needs_is_not_deleted(shop: Any, what: str) -> None:
    job_id = succeeded(shop)
    named = {"job": job_id, "model": shop.job(job_id).student_model_id}
    delete, doomed_id = (removal.delete_job if what == "job" else removal.delete_model), named[what]
    told: list[str] = []

    def remove() -> None:
        try:
            shop.do(delete, doomed_id)
        except WrongState as error:
            told.append(error.detail)

    sent = parse({
        "dataset": {"name": "digits"}, "student": {"architecture": "seed_student"},
        "teacher": {"architecture": "seed_student", what: doomed_id},
    })  # fmt: skip
    with shop.database.transaction() as session:
        needing = jobs.submit(session, sent=sent, resolved=resolve(sent)).id
        remover = threading.Thread(target=remove)
        remover.start()
        remover.join(timeout=0.5)
        assert remover.is_alive(), "the deletion waits for the submission"
    remover.join(timeout=30)
    assert told == [f"{doomed_id} is needed by {needing}."]


@pytest.mark.parametrize("verb", ["submit", "measure"])
def test_what_is_just_being_deleted_is_not_there_for_who_comes_after(shop: Any, verb: str) -> None:
    job_id = succeeded(shop)
    told: list[type] = []

    def come() -> None:
        try:
            if verb == "submit":
                shop.submit(teacher={"architecture": "seed_student", "job": job_id})
            else:
                shop.do(benchmarks.request, job_id, spec=LatencySpec())
        except (InvalidSpec, NotFound) as error:
            told.append(type(error))

    with shop.database.transaction() as session:
        removal.delete_job(session, job_id)
        comer = threading.Thread(target=come)
        comer.start()
        comer.join(timeout=0.5)
        assert comer.is_alive(), "it waits for the deletion"
    comer.join(timeout=30)
    assert told == [InvalidSpec if verb == "submit" else NotFound]
    assert shop.sql("SELECT * FROM jobs") == []
