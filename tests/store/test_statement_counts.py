"""How many statements a request costs. Each is a way to the database and back, and most of what a request takes."""

from typing import Any

import pytest
from sqlalchemy import event

from store import events, jobs


@pytest.fixture
def statements(shop: Any) -> list[str]:
    """The first word of each statement that is run, without those around a transaction."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if (word := statement.split()[0]) not in {"PRAGMA", "BEGIN"}:
            seen.append(word)

    event.listen(shop.database._engine, "before_cursor_execute", note)
    return seen


def test_a_submit(shop: Any, statements: list[str]) -> None:
    shop.submit()
    assert statements == ["INSERT", "INSERT", "SELECT", "INSERT", "SELECT"], "job, event, webhooks?, hint, place"


def test_a_look_at_a_job(shop: Any, statements: list[str]) -> None:
    job_id = shop.submit().id
    del statements[:]
    assert shop.job(job_id).queue.position == 1
    assert statements == ["SELECT"]
    shop.claim()
    del statements[:]
    assert shop.job(job_id).attempts
    assert statements == ["SELECT"] * 2


def test_a_page(shop: Any, statements: list[str]) -> None:
    job_id = shop.submit().id
    del statements[:]
    assert shop.see(jobs.page).data
    assert shop.see(events.after, job_id)
    assert statements == ["SELECT"] * 2
