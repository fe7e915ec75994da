"""Pausing and resuming, as far as the store has a part in it; workers end their part in test_halts."""

from typing import Any

import pytest

from distillery.errors import NotFound, WrongState
from store import leases, wishes


def hints(shop: Any) -> int:
    return len(shop.sql("SELECT * FROM outbox WHERE kind = 'hint'"))


def test_a_queued_job_is_paused_at_once_and_nobody_gets_it(shop: Any) -> None:
    job = shop.submit()
    assert shop.do(wishes.pause, job.id).status == "paused"
    assert hints(shop) == 0
    assert shop.do(leases.claim, worker="w", queues=["default"], lease_seconds=60) is None
    assert shop.event_types(job.id) == ["queued", "paused"]


def test_a_resumed_job_is_hinted_at_and_claimed(shop: Any) -> None:
    job = shop.submit()
    shop.do(wishes.pause, job.id)
    assert shop.do(wishes.resume, job.id).status == "queued"
    assert hints(shop) == 1
    assert shop.claim(job.id).attempt == 1
    assert shop.event_types(job.id) == ["queued", "paused", "resumed", "started"]


def test_a_running_job_is_asked_once(shop: Any) -> None:
    claim = shop.claimed()
    for _ in range(2):
        assert shop.do(wishes.pause, claim.id).status == "pausing"
    assert shop.event_types(claim.id) == ["queued", "started", "pause_requested"]
    assert shop.job(claim.id).worker == "worker-1", "it is still there until it has saved"


def test_time_that_a_job_is_paused_counts_neither_as_waiting_nor_as_running(shop: Any) -> None:
    job = shop.submit()
    shop.do(wishes.pause, job.id)
    shop.sql("UPDATE jobs SET since = since - 1000 WHERE id = :id", id=job.id)
    shop.do(wishes.resume, job.id)
    usage = shop.job(job.id).usage
    assert usage.queued_seconds < 500 and usage.running_seconds == 0


def test_a_paused_job_is_cancelled_at_once_and_one_that_is_pausing_by_its_worker(shop: Any) -> None:
    paused, pausing = shop.submit(), shop.claimed()
    shop.do(wishes.pause, paused.id)
    assert shop.do(wishes.cancel, paused.id).status == "cancelled"
    shop.do(wishes.pause, pausing.id)
    assert shop.do(wishes.cancel, pausing.id).status == "cancelling"
    assert shop.do(leases.beat, pausing, lease_seconds=60) == "cancel"


@pytest.mark.parametrize("state", ["queued", "running", "pausing", "failed"])
def test_only_a_paused_job_can_be_resumed(shop: Any, state: str) -> None:
    job_id = shop.submit().id
    if state != "queued":
        claim = shop.claim(job_id)
        if state == "pausing":
            shop.do(wishes.pause, job_id)
        elif state == "failed":
            shop.fail(claim)
    with pytest.raises(WrongState, match=f"is {state}, not paused"):
        shop.do(wishes.resume, job_id)


def test_what_has_ended_cannot_be_paused(shop: Any) -> None:
    claim = shop.claimed()
    shop.fail(claim)
    with pytest.raises(WrongState, match="nothing left to pause"):
        shop.do(wishes.pause, claim.id)
    with pytest.raises(NotFound):
        shop.do(wishes.pause, "job_none")


def test_a_job_is_paused_at_its_last_checkpoint_though_a_heartbeat_told_an_earlier_step_since(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(wishes.pause, claim.id)
    shop.save(claim, 13)
    shop.do(leases.beat, claim, lease_seconds=60, step=11)
    shop.do(leases.paused, claim)
    assert shop.sql("SELECT step FROM jobs WHERE id = :id", id=claim.id)[0][0] == 13
    shop.do(wishes.resume, claim.id)
    shop.do(leases.beat, shop.claim(claim.id), lease_seconds=60, step=14)
    assert shop.sql("SELECT step FROM jobs WHERE id = :id", id=claim.id)[0][0] == 14
