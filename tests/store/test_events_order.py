"""Events are numbered from 1 without gaps, whoever writes them at the same time."""

import threading
from typing import Any

import pytest

from distillery.errors import NotFound
from store import events, leases, wishes


def test_numbers_have_no_gaps_when_writers_race(shop: Any) -> None:
    claim = shop.claimed()
    start = threading.Barrier(5)

    def warn(number: int) -> None:
        start.wait(30)
        for index in range(8):
            shop.patiently(leases.event, claim, "warning", f"{number}/{index}")

    def cancel() -> None:
        start.wait(30)
        shop.patiently(wishes.cancel, claim.id)

    threads = [threading.Thread(target=warn, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=cancel))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert shop.event_numbers(claim.id) == list(range(1, 2 + 4 * 8 + 1 + 1))


def test_a_number_is_not_used_up_by_a_transaction_that_fails(shop: Any) -> None:
    claim = shop.claimed()
    with pytest.raises(ZeroDivisionError), shop.database.transaction() as session:
        leases.event(session, claim, "warning", "never happened")
        _ = 1 / 0
    shop.do(leases.event, claim, "warning", "happened")
    assert shop.event_numbers(claim.id) == [1, 2, 3]


def test_events_are_read_on_from_a_number(shop: Any) -> None:
    claim = shop.claimed()
    for index in range(5):
        shop.do(leases.event, claim, "warning", f"warning {index}", {"index": index})
    assert [each.seq for each in shop.see(events.after, claim.id)] == [1, 2, 3, 4, 5, 6, 7]
    some = shop.see(events.after, claim.id, seq=3, limit=2)
    assert [(each.seq, each.type, each.attempt, each.message, each.data) for each in some] == [
        (4, "warning", 1, "warning 1", {"index": 1}),
        (5, "warning", 1, "warning 2", {"index": 2}),
    ]
    assert some[0].at <= some[1].at
    assert shop.see(events.after, claim.id, seq=7) == []
    assert shop.see(events.after, claim.id, seq=10**30) == []
    assert len(shop.see(events.after, claim.id, seq=-5)) == 7


def test_no_events_of_a_job_that_never_was(shop: Any) -> None:
    with pytest.raises(NotFound):
        shop.see(events.after, "job_that_never_was")


def test_what_no_database_takes_is_stored_all_the_same(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(leases.event, claim, "warning", "a NUL \x00 and a surrogate \ud800", {"loss": float("nan"), "nul": "\x00"})
    last = shop.see(events.after, claim.id)[-1]
    assert last.message == "a NUL \ufffd and a surrogate ?"
    assert last.data == {"loss": None, "nul": "\x00"}


def test_what_is_said_again_because_an_answer_was_lost_happens_once(shop: Any) -> None:
    claim = shop.claimed()
    for _ in range(2):
        shop.do(leases.phase, claim, "training")
        shop.save(claim, 5)
        shop.deliver(claim)
    assert shop.event_types(claim.id) == ["queued", "started", "phase", "checkpoint", "artifact"]
