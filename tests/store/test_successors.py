"""Jobs made from earlier ones."""

from typing import Any

import pytest

from distillery.errors import WrongState
from distillery.spec import resolve
from store import successors


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
