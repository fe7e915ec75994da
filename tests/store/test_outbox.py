"""What is to be done outside: handed out to one at a time, again until it is done."""

import threading
from typing import Any

from sqlalchemy import event

from store import leases, outbox


def due(shop: Any, *kinds: str, limit: int = 100) -> Any:
    return shop.do(outbox.due, kinds=list(kinds), limit=limit)


def show_again(shop: Any) -> None:
    """Let the time for which a row is out of sight be over."""
    shop.sql("UPDATE outbox SET next_try_at = 0")


def test_a_submitted_job_is_hinted_at_until_that_is_done(shop: Any) -> None:
    job = shop.submit(resources={"queue": "gpu"})
    (row,) = due(shop, "hint")
    assert row.payload == {"job_id": job.id, "queue": "gpu"}
    assert due(shop, "hint") == []
    show_again(shop)
    assert due(shop, "hint") == [row]
    shop.do(outbox.done, row.id)
    show_again(shop)
    assert due(shop, "hint") == []
    shop.do(outbox.done, row.id)


def test_a_row_is_put_off(shop: Any) -> None:
    shop.submit()
    (row,) = due(shop, "hint")
    shop.do(outbox.retry, row.id, seconds=0)
    assert due(shop, "hint") == [row]
    shop.do(outbox.retry, row.id, seconds=1000)
    assert due(shop, "hint") == []


def test_kinds_and_the_limit_are_kept_to(shop: Any) -> None:
    for _ in range(3):
        shop.submit()
    assert due(shop, "delete") == []
    assert len(due(shop, "hint", "delete", limit=2)) == 2
    assert len(due(shop, "hint", limit=2)) == 1


def test_relays_that_race_get_each_row_once(shop: Any) -> None:
    for _ in range(20):
        shop.submit()
    taken: list[int] = []

    def relay() -> None:
        while rows := shop.patiently(outbox.due, kinds=["hint"], limit=3):
            taken.extend(row.id for row in rows)

    threads = [threading.Thread(target=relay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == len(set(taken)) == 20


def test_a_job_given_back_is_hinted_at_again(shop: Any) -> None:
    claim = shop.claimed()
    assert due(shop, "hint") == []
    shop.do(leases.release, claim)
    assert [row.payload["job_id"] for row in due(shop, "hint")] == [claim.id]


def test_the_hint_after_a_crash_waits_as_long_as_the_job(shop: Any) -> None:
    claim = shop.claimed()
    shop.crash(claim)
    assert due(shop, "hint") == []
    (row,) = shop.sql("SELECT next_try_at - created_at AS wait FROM outbox")
    assert abs(row.wait - 10) < 0.1


def test_waiting_jobs_are_hinted_at_again_when_the_broker_may_have_forgotten(shop: Any) -> None:
    waiting, running, backing_off = shop.submit(), shop.claimed(resources={"priority": 90}), None
    backing_off = shop.claim(shop.submit(resources={"priority": 90}).id)
    shop.crash(backing_off)
    shop.sql("DELETE FROM outbox")  # all were sent, and the broker lost its memory
    assert shop.do(outbox.rehint, older_than_seconds=60) == 0
    shop.sql("UPDATE jobs SET hinted_at = hinted_at - 100")
    assert shop.do(outbox.rehint, older_than_seconds=60) == 1
    assert shop.do(outbox.rehint, older_than_seconds=60) == 0
    assert [row.payload["job_id"] for row in due(shop, "hint")] == [waiting.id]
    assert shop.job(running.id).status == "running"


def test_hinting_again_leaves_one_hint_for_each_job(shop: Any) -> None:
    shop.submit()
    for _ in range(3):
        shop.do(outbox.rehint, older_than_seconds=-1)
    assert len(shop.sql("SELECT * FROM outbox")) == 1


def test_hinting_again_at_many_jobs_takes_no_more_statements_than_at_one(shop: Any) -> None:
    """Their rows are locked until it is over, and a claim that meets a locked row takes a later job."""
    counts = []
    for jobs in (1, 20):
        for _ in range(jobs):
            shop.submit()
        statements: list[str] = []
        with shop.database.transaction() as session:
            connection = session.connection()
            event.listen(connection, "before_cursor_execute", lambda *given, kept=statements: kept.append(given[2]))
            outbox.rehint(session, older_than_seconds=-1)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    assert len(due(shop, "hint")) == 21
