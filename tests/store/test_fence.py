"""An attempt that no longer owns its job can write nothing, by whatever verb it tries."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from distillery.errors import Fenced
from distillery.views import Adjustments, Estimate, Interval, JobError, Progress
from store import leases

SHA = "cd" * 32
ERROR = JobError(type="urn:test", title="Bad data", detail="The data is bad.", code="UNREADABLE_DATA")
ESTIMATE = Estimate(seconds=None, memory_bytes=Interval(low=1, high=2), artifact_bytes=Interval(low=1, high=2))
FILE = {"key": "jobs/x/a1/late", "sha256": SHA, "size_bytes": 1}

VERBS: dict[str, Callable[[Any, Any, Any], None]] = {
    "beat": lambda shop, claim, lease: shop.do(
        leases.beat, claim, lease_seconds=60, step=9, progress=Progress(phase="training", step=9)
    ),
    "event": lambda shop, claim, lease: shop.do(leases.event, claim, "warning", "too late", {}),
    "phase": lambda shop, claim, lease: shop.do(leases.phase, claim, "training"),
    "resolved": lambda shop, claim, lease: shop.do(leases.resolved, claim, claim.spec),
    "estimated": lambda shop, claim, lease: shop.do(leases.estimated, claim, ESTIMATE),
    "metrics": lambda shop, claim, lease: shop.do(leases.metrics, claim, step=9, values={"training/loss": 1.0}),
    "checkpoint": lambda shop, claim, lease: shop.do(leases.checkpoint, claim, step=9, phase="training", **FILE),
    "artifact": lambda shop, claim, lease: shop.do(
        leases.artifact, claim, name="late", media_type="application/octet-stream", **FILE
    ),
    "succeed": lambda shop, claim, lease: shop.do(leases.succeed, claim, summary="late", models=()),
    "fail": lambda shop, claim, lease: shop.do(leases.fail, claim, error=ERROR, exit_code=1),
    "cancelled": lambda shop, claim, lease: shop.do(leases.cancelled, claim),
    "paused": lambda shop, claim, lease: shop.do(leases.paused, claim),
    "halt": lambda shop, claim, lease: shop.do(
        leases.halt, claim, reason="disk_full", detail="late", adjustments=Adjustments(), wait_seconds=0
    ),
    "release": lambda shop, claim, lease: shop.do(leases.release, claim),
    "crash": lambda shop, claim, lease: shop.do(leases.crash, claim, exit_code=-9, detail="late", lease=lease),
}
"""Every verb that a claim is passed to; `test_every_verb_is_tried` sees to it that none is missing."""

TABLES = ("jobs", "attempts", "events", "metrics", "checkpoints", "artifacts", "models", "outbox")


def everything(shop: Any) -> dict[str, list[str]]:
    # As text: two JSON columns of Postgres cannot be compared, and a row is compared here with what it was.
    return {table: sorted(str(row) for row in shop.sql(f"SELECT * FROM {table}")) for table in TABLES}  # noqa: S608


def lost_and_taken_over(shop: Any) -> Any:
    claim = shop.claimed()
    shop.expire(claim.id)
    shop.do(leases.reap, lease=shop.lease)
    shop.no_backoff(claim.id)
    shop.claim(claim.id, worker="worker-2")
    return claim


def lost_and_waiting(shop: Any) -> Any:
    claim = shop.claimed()
    shop.expire(claim.id)
    shop.do(leases.reap, lease=shop.lease)
    return claim


def finished(shop: Any) -> Any:
    claim = shop.claimed()
    shop.do(leases.succeed, claim, summary="done", models=())
    return claim


@pytest.mark.parametrize("situation", [lost_and_taken_over, lost_and_waiting, finished], ids=lambda each: each.__name__)
@pytest.mark.parametrize("verb", VERBS)
def test_a_fenced_attempt_writes_nothing(shop: Any, verb: str, situation: Callable[[Any], Any]) -> None:
    claim = situation(shop)
    before = everything(shop)
    with pytest.raises(Fenced, match=f"Attempt 1 of {claim.id}"):
        VERBS[verb](shop, claim, shop.lease)
    assert everything(shop) == before


def test_a_fenced_write_takes_the_rest_of_its_transaction_with_it(shop: Any) -> None:
    claim, other = lost_and_waiting(shop), shop.claimed()
    before = everything(shop)
    with pytest.raises(Fenced), shop.database.transaction() as session:
        leases.event(session, other, "warning", "said in the same transaction")
        leases.metrics(session, claim, step=1, values={"training/loss": 1.0})
    assert everything(shop) == before


def test_every_verb_is_tried() -> None:
    taking_a_claim = {
        name
        for name in leases.__all__
        if inspect.isfunction(found := getattr(leases, name)) and "claim" in inspect.signature(found).parameters
    }
    assert taking_a_claim - {"outcome", "refused"} == set(VERBS)  # one reads only, one counts what was refused
