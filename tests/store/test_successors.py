"""Jobs made from earlier ones."""

from typing import Any

import pytest

from distillery.errors import WrongState
from distillery.spec import resolve
from store import removal, successors, wishes


def test_a_retry_is_a_new_job_with_the_same_seed_that_goes_on_from_the_last_checkpoint(shop: Any) -> None:
    claim = shop.claimed()
    shop.save(claim, 7)
    shop.fail(claim)
    new = shop.do(successors.retry, claim.id, max_seconds=50)
    assert (new.status, new.retry_of, new.cloned_from) == ("queued", claim.id, None)
    assert new.resolved_spec.training == shop.job(claim.id).resolved_spec.training
    assert new.resolved_spec.resources.max_seconds == new.spec.resources.max_seconds == 50
    assert shop.job(claim.id).status == "failed", "what has ended stays as it ended"
    assert [each.step for each in shop.claim(new.id).checkpoints] == [7]


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_only_what_went_wrong_can_be_retried(shop: Any, state: str) -> None:
    from store import leases

    job_id = shop.submit().id
    if state != "queued":
        claim = shop.claim(job_id)
        if state == "succeeded":
            shop.do(leases.succeed, claim, summary="done", models=())
    with pytest.raises(WrongState, match=f"is {state}"):
        shop.do(successors.retry, job_id)


def test_a_clone_begins_anew(shop: Any) -> None:
    claim = shop.claimed()
    shop.save(claim, 7)
    sent = claim.spec
    new = shop.do(successors.clone, claim.id, sent=sent, resolved=resolve(sent))
    assert (new.status, new.cloned_from, new.retry_of) == ("queued", claim.id, None)
    assert shop.claim(new.id).checkpoints == ()


def test_a_retry_of_a_retry_that_saved_nothing_goes_on_from_what_there_is(shop: Any) -> None:
    first = shop.claimed()
    shop.save(first, 7)
    shop.fail(first)
    second = shop.claim(shop.do(successors.retry, first.id).id)
    shop.fail(second)
    third = shop.do(successors.retry, second.id)
    assert third.retry_of == first.id
    with pytest.raises(WrongState, match=f"is needed by {third.id}"):
        shop.do(removal.delete_job, first.id)
    claim = shop.claim(third.id)
    assert [each.step for each in claim.checkpoints] == [7]
    shop.save(claim, 9)
    shop.fail(claim)
    assert shop.do(successors.retry, third.id).retry_of == third.id


def test_a_retry_is_called_as_its_predecessor_is_called_by_now_and_runs_as_it_ran(shop: Any) -> None:
    claim = shop.claimed(labels={"a": "1"})
    shop.do(wishes.edit, claim.id, name="better", labels={"a": None, "b": "2"}, priority=90)
    shop.sql("UPDATE jobs SET adjustments = '{\"micro_batches\": 4}' WHERE id = :id", id=claim.id)
    shop.fail(claim)
    new = shop.do(successors.retry, claim.id)
    assert (new.name, new.labels, new.adjustments.micro_batches) == ("better", {"b": "2"}, 4)
    assert new.spec.resources.priority == new.resolved_spec.resources.priority == 90
    assert new.resolved_spec.training == claim.spec.training
