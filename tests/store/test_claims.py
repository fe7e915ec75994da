"""Who gets which job, and that nobody else gets it."""

import subprocess
import sys
import threading
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from distillery.ids import new_id
from distillery.views import FARTHEST_PLACE
from store import jobs, leases
from tests.store.conftest import spec


def take(shop: Any, **options: Any) -> Any:
    return shop.do(leases.claim, **{"worker": "worker-1", "queues": ["default"], "lease_seconds": 60} | options)


def test_highest_priority_first_then_in_order_of_submission(shop: Any) -> None:
    low = shop.submit(resources={"priority": 10})
    first, second = shop.submit(), shop.submit()
    high = shop.submit(resources={"priority": 90})
    assert [take(shop).id for _ in range(4)] == [high.id, first.id, second.id, low.id]
    assert take(shop) is None


def test_the_place_in_the_queue_is_the_order_of_claims(shop: Any) -> None:
    ids = [shop.submit(resources={"priority": priority}).id for priority in (10, 50, 50, 90)]
    shop.submit(resources={"queue": "other", "priority": 100})
    assert [shop.job(each).queue.position for each in ids] == [4, 2, 3, 1]
    taken = take(shop)
    assert shop.job(taken.id).queue is None
    assert [shop.job(each).queue.position for each in ids[:3]] == [3, 1, 2]


@pytest.mark.parametrize("urgent", [0, 400, 1200], ids=lambda count: f"{count} before by priority")
def test_places_are_counted_so_far_and_no_farther(shop: Any, urgent: int) -> None:
    specs = [spec(resources={"priority": priority}) for priority in (50, 90)]
    with shop.database.transaction() as session:
        for place in range(1200):
            sent = specs[place < urgent]
            jobs.add_row(session, new_id("job"), kind="distillation", sent=sent, resolved=sent)
    ids = [row.id for row in shop.sql("SELECT id FROM jobs ORDER BY priority DESC, created_at, id")]
    for place in (1, 2, 399, 400, 401, 999, 1000, 1001, 1200):
        assert shop.job(ids[place - 1]).queue.position == min(place, FARTHEST_PLACE)


def test_only_the_queues_asked_for(shop: Any) -> None:
    shop.submit(resources={"queue": "gpu.large"})
    assert take(shop) is None
    assert take(shop, queues=[]) is None
    assert take(shop, queues=["default", "gpu.large"]) is not None


def test_a_hint_claims_its_own_job_once(shop: Any) -> None:
    older, hinted = shop.submit(), shop.submit()
    assert take(shop, job_id=hinted.id).id == hinted.id
    assert take(shop, job_id=hinted.id) is None
    assert take(shop, job_id="job_that_never_was") is None
    assert shop.job(older.id).status == "queued"


def test_a_job_is_left_alone_until_its_time(shop: Any) -> None:
    claim = shop.claimed()
    shop.crash(claim)
    assert take(shop) is None
    shop.no_backoff(claim.id)
    assert take(shop).attempt == 2


def test_a_claim_carries_what_the_worker_needs(shop: Any) -> None:
    job = shop.submit(labels={"team": "vision"})
    claim = shop.claim(job.id, worker="host-7")
    assert claim.spec == job.resolved_spec
    assert (claim.kind, claim.attempt, claim.latency, claim.subject_id, claim.checkpoints) == (
        "distillation", 1, None, None, (),
    )  # fmt: skip
    seen = shop.job(job.id)
    assert (seen.status, seen.worker, seen.attempt) == ("running", "host-7", 1)
    assert [(each.attempt, each.worker, each.outcome, each.first_step) for each in seen.attempts] == [
        (1, "host-7", None, 0)
    ]
    assert shop.event_types(job.id) == ["queued", "started"]


def test_the_next_attempt_gets_the_checkpoints_newest_first(shop: Any) -> None:
    claim = shop.claimed()
    saved = [shop.save(claim, step) for step in (10, 20)]
    shop.do(leases.beat, claim, lease_seconds=60, step=25)
    shop.do(leases.release, claim)
    again = shop.claim(claim.id)
    assert again.checkpoints == (saved[1], saved[0])
    assert [each.first_step for each in shop.job(claim.id).attempts] == [0, 20]
    assert [each.last_step for each in shop.job(claim.id).attempts] == [25, None]


def test_a_claim_drops_the_hint_that_waits_to_be_sent(shop: Any) -> None:
    job = shop.submit()
    assert shop.sql("SELECT count(*) FROM outbox WHERE job_id = :id", id=job.id)[0][0] == 1
    shop.claim(job.id)
    assert shop.sql("SELECT count(*) FROM outbox WHERE job_id = :id", id=job.id)[0][0] == 0


@pytest.mark.parametrize("status", ["running", "cancelling"])
def test_the_database_refuses_a_live_job_without_a_lease(shop: Any, status: str) -> None:
    job = shop.submit()
    with pytest.raises(IntegrityError):
        shop.sql("UPDATE jobs SET status = :status, owner = 'somebody' WHERE id = :id", status=status, id=job.id)


def test_threads_that_race_get_each_job_once(shop: Any) -> None:
    jobs = {shop.submit().id for _ in range(20)}
    taken: list[str] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(30)
        mine = {"worker": "racer", "queues": ["default"], "lease_seconds": 60}
        while (claim := shop.patiently(leases.claim, **mine)) is not None:
            taken.append(claim.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == sorted(jobs)
    assert {row.attempt for row in shop.sql("SELECT attempt FROM jobs")} == {1}
    assert len(shop.sql("SELECT * FROM attempts")) == 20


COUNTS_UP = """
import contextlib
import sys
from sqlalchemy import text
from distillery.errors import Unavailable
from store.db import Database

url, job_id, times = sys.argv[1:]
database = Database(url)
lock = "" if database.is_sqlite else "FOR UPDATE"
done = 0
while done < int(times):
    with contextlib.suppress(Unavailable), database.transaction() as session:
        step = session.execute(text(f"SELECT step FROM jobs WHERE id = :id {lock}"), {"id": job_id}).scalar_one()
        session.execute(text("UPDATE jobs SET step = :step WHERE id = :id"), {"step": step + 1, "id": job_id})
        done += 1
database.close()
"""


def test_processes_that_race_lose_no_update(shop: Any, database_url: str) -> None:
    job = shop.submit()
    command = [sys.executable, "-c", COUNTS_UP, database_url, job.id, "40"]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait(250) for child in children] == [0, 0, 0]
    assert shop.sql("SELECT step FROM jobs WHERE id = :id", id=job.id)[0].step == 120
