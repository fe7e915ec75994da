"""Attempts that end without ending the job: paused by the user, or halted so that the next one runs differently."""

from typing import Any

import pytest

from distillery.errors import WrongState
from distillery.views import Adjustments
from store import leases

SMALLER = Adjustments(micro_batches=2)


def halt(shop: Any, claim: Any, **changes: Any) -> None:
    told = {"reason": "out_of_memory", "detail": "Memory ran out.", "adjustments": SMALLER, "wait_seconds": 0}
    shop.do(leases.halt, claim, **told | changes)


def ask(shop: Any, job_id: str, status: str) -> None:
    """As the user's request leaves the row of a running job."""
    shop.sql("UPDATE jobs SET status = :status WHERE id = :id", id=job_id, status=status)


def test_a_beat_tells_what_the_user_wants(shop: Any) -> None:
    claim = shop.claimed()
    for status, wish in (("running", "go on"), ("pausing", "pause"), ("cancelling", "cancel")):
        ask(shop, claim.id, status)
        assert shop.do(leases.beat, claim, lease_seconds=60) == wish


def test_a_paused_job_is_off_its_worker_and_nobody_can_claim_it(shop: Any) -> None:
    claim = shop.claimed()
    shop.save(claim, 5)
    ask(shop, claim.id, "pausing")
    shop.do(leases.paused, claim)
    job = shop.job(claim.id)
    assert (job.status, job.worker, job.attempts[0].outcome) == ("paused", None, "paused")
    assert shop.event_types(claim.id)[-1] == "paused"
    assert shop.do(leases.claim, worker="w", queues=["default"], lease_seconds=60) is None
    shop.sql("UPDATE jobs SET lease_expires_at = 1 WHERE id = :id", id=claim.id)
    assert shop.do(leases.reap, lease=shop.lease) == []


@pytest.mark.parametrize("verb", ["paused", "cancelled"])
def test_what_nobody_asked_for_does_not_end_an_attempt(shop: Any, verb: str) -> None:
    claim = shop.claimed()
    with pytest.raises(WrongState, match="running and nobody asked"):
        shop.do(getattr(leases, verb), claim)


def test_a_pause_that_became_a_cancel_is_a_cancel(shop: Any) -> None:
    claim = shop.claimed()
    ask(shop, claim.id, "cancelling")
    shop.do(leases.paused, claim)
    assert shop.job(claim.id).status == "cancelled"


@pytest.mark.parametrize(("asked", "then"), [("pausing", "paused"), ("cancelling", "cancelled")])
@pytest.mark.parametrize("how", ["release", "crash", "halt", "reap"])
def test_however_the_worker_goes_the_users_wish_is_kept(shop: Any, asked: str, then: str, how: str) -> None:
    claim = shop.claimed()
    shop.save(claim, 5)
    ask(shop, claim.id, asked)
    if how == "release":
        shop.do(leases.release, claim)
    elif how == "crash":
        shop.crash(claim)
    elif how == "halt":
        halt(shop, claim)
    else:
        shop.expire(claim.id)
        assert shop.do(leases.reap, lease=shop.lease) == [claim.id]
    job = shop.job(claim.id)
    assert (job.status, job.attempts[0].ended_at is not None) == (then, True)
    assert shop.event_types(claim.id)[-1] == then
    assert shop.sql("SELECT * FROM outbox WHERE kind = 'hint'") == []


def test_a_halted_attempt_is_followed_by_one_that_runs_differently_and_counts_no_crash(shop: Any) -> None:
    claim = shop.claimed()
    shop.save(claim, 5)
    halt(shop, claim)
    job = shop.job(claim.id)
    assert (job.status, job.adjustments, job.attempts[0].outcome) == ("queued", SMALLER, "halted")
    assert job.status_reason == "Memory ran out."
    (row,) = shop.sql("SELECT crashes, preemptions FROM jobs WHERE id = :id", id=claim.id)
    assert tuple(row) == (0, 0)
    following = shop.claim(claim.id)
    assert following.adjustments == SMALLER
    assert following.checkpoints[0].step == 5


def test_a_job_that_waits_for_space_is_not_claimed_at_once(shop: Any) -> None:
    claim = shop.claimed()
    halt(shop, claim, reason="disk_full", wait_seconds=60, adjustments=Adjustments())
    assert shop.do(leases.claim, worker="w", queues=["default"], lease_seconds=60) is None
    (row,) = shop.sql("SELECT data FROM events WHERE job_id = :id ORDER BY seq DESC LIMIT 1", id=claim.id)
    assert "disk_full" in str(row.data)


def test_a_retry_goes_on_from_the_checkpoints_of_the_job_it_retries_until_it_has_its_own(shop: Any) -> None:
    first = shop.claimed()
    shop.save(first, 5)
    shop.save(first, 9)
    shop.fail(first)
    second = shop.submit()
    shop.sql("UPDATE jobs SET retry_of = :first WHERE id = :id", first=first.id, id=second.id)
    claim = shop.claim(second.id)
    assert [each.step for each in claim.checkpoints] == [9, 5]
    assert shop.job(second.id).attempts[0].first_step == 9
    shop.save(claim, 12)
    shop.do(leases.release, claim)
    again = shop.claim(second.id)
    assert [each.step for each in again.checkpoints] == [12, 9, 5]
    assert shop.job(second.id).attempts[1].first_step == 12


def test_a_claim_knows_what_is_left_of_the_time_limit(shop: Any) -> None:
    job = shop.submit(resources={"max_seconds": 100})
    shop.sql("UPDATE jobs SET running_seconds = 40 WHERE id = :id", id=job.id)
    assert shop.claim(job.id).seconds_left == pytest.approx(60)
    assert shop.claimed().seconds_left is None


def test_refused_writes_are_counted_for_an_attempt_that_lost_its_job(shop: Any) -> None:
    claim = shop.claimed()
    shop.expire(claim.id)
    shop.do(leases.reap, lease=shop.lease)
    shop.do(leases.refused, claim)
    shop.do(leases.refused, claim)
    assert shop.job(claim.id).attempts[0].refused_writes == 2


def test_a_heartbeat_that_crosses_the_attempts_own_end_is_not_counted(shop: Any) -> None:
    claim = shop.claimed()
    shop.fail(claim)
    shop.do(leases.refused, claim)
    assert shop.job(claim.id).attempts[0].refused_writes == 0
