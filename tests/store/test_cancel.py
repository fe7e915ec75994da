"""Cancelling, in each state that a job can be in."""

from typing import Any

import pytest

from distillery.errors import Fenced, NotFound, WrongState
from store import leases, wishes


def cancel(shop: Any, job_id: str) -> Any:
    return shop.do(wishes.cancel, job_id)


def cancelling(shop: Any) -> Any:
    claim = shop.claimed()
    cancel(shop, claim.id)
    return claim


def test_a_job_that_never_ran_is_cancelled_at_once(shop: Any) -> None:
    job = shop.submit()
    answer = cancel(shop, job.id)
    assert (answer.status, answer.queue) == ("cancelled", None)
    assert answer.finished_at is not None
    assert shop.event_types(job.id) == ["queued", "cancelled"]
    assert shop.do(leases.claim, worker="w", queues=["default"], lease_seconds=60) is None
    assert shop.sql("SELECT * FROM outbox") == []


def test_a_job_between_two_attempts_is_cancelled_at_once(shop: Any) -> None:
    claim = shop.claimed()
    shop.save(claim, 10)
    shop.do(leases.release, claim)
    assert cancel(shop, claim.id).status == "cancelled"
    assert shop.job(claim.id).checkpoint_id is not None


def test_a_running_job_is_asked_to_stop(shop: Any) -> None:
    claim = shop.claimed()
    assert shop.do(leases.beat, claim, lease_seconds=60) == "go on"
    assert cancel(shop, claim.id).status == "cancelling"
    assert shop.do(leases.beat, claim, lease_seconds=60) == "cancel"
    shop.save(claim, 10)
    shop.do(leases.cancelled, claim)
    seen = shop.job(claim.id)
    assert (seen.status, seen.worker) == ("cancelled", None)
    assert [each.outcome for each in seen.attempts] == ["cancelled"]
    assert shop.event_types(claim.id) == ["queued", "started", "cancel_requested", "checkpoint", "cancelled"]


def test_asking_twice_changes_nothing(shop: Any) -> None:
    claim = cancelling(shop)
    before = shop.event_numbers(claim.id)
    assert cancel(shop, claim.id).status == "cancelling"
    assert shop.event_numbers(claim.id) == before


@pytest.mark.parametrize("ending", ["succeeded", "failed", "crashed", "cancelled"])
def test_what_has_ended_stays_as_it_ended(shop: Any, ending: str) -> None:
    claim = shop.claimed()
    if ending == "succeeded":
        shop.do(leases.succeed, claim, summary="done", models=())
    elif ending == "failed":
        shop.fail(claim)
    elif ending == "cancelled":
        cancel(shop, claim.id)
        shop.do(leases.cancelled, claim)
    else:
        for _ in range(2):
            shop.crash(claim)
            shop.no_backoff(claim.id)
            claim = shop.claim(claim.id)
        shop.crash(claim)
    before = shop.event_numbers(claim.id)
    with pytest.raises(WrongState, match=ending):
        cancel(shop, claim.id)
    assert shop.job(claim.id).status == ending
    assert shop.event_numbers(claim.id) == before


def test_no_such_job(shop: Any) -> None:
    with pytest.raises(NotFound):
        cancel(shop, "job_that_never_was")


def test_a_worker_that_dies_while_cancelling_leaves_a_cancelled_job(shop: Any) -> None:
    claim = cancelling(shop)
    shop.expire(claim.id)
    assert shop.do(leases.reap, lease=shop.lease) == [claim.id]
    seen = shop.job(claim.id)
    assert seen.status == "cancelled"
    assert [each.outcome for each in seen.attempts] == ["lost"]
    assert shop.sql("SELECT * FROM outbox") == []


def test_a_trainer_that_dies_while_cancelling_leaves_a_cancelled_job(shop: Any) -> None:
    claim = cancelling(shop)
    shop.crash(claim)
    assert shop.job(claim.id).status == "cancelled"


def test_a_worker_that_has_to_go_while_cancelling_leaves_a_cancelled_job(shop: Any) -> None:
    claim = cancelling(shop)
    shop.do(leases.release, claim)
    assert shop.job(claim.id).status == "cancelled"
    assert [each.outcome for each in shop.job(claim.id).attempts] == ["cancelled"]


def test_a_cancel_that_comes_too_late_leaves_the_truth(shop: Any) -> None:
    done, bad = cancelling(shop), cancelling(shop)
    shop.do(leases.succeed, done, summary="done", models=())
    shop.fail(bad)
    assert (shop.job(done.id).status, shop.job(bad.id).status) == ("succeeded", "failed")


def test_a_worker_cannot_cancel_what_nobody_asked_it_to(shop: Any) -> None:
    claim = shop.claimed()
    with pytest.raises(WrongState, match="nobody asked"):
        shop.do(leases.cancelled, claim)
    assert shop.job(claim.id).status == "running"
    shop.do(leases.release, claim)
    with pytest.raises(Fenced):
        shop.do(leases.cancelled, claim)
