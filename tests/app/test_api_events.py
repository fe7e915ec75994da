"""Events: pages, and the live stream with its replay, its comments and its end."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse, connect_sse
from sqlalchemy.event import listen, remove

from app.events import Feed
from app.routes import jobs as routes
from app.waiting import LOOK_SECONDS
from distillery.errors import Unavailable
from distillery.views import TERMINAL, Event, Page
from store import leases
from store.events import Standing

STREAM = {"Accept": "text/event-stream"}


def listened(
    live: Any, job_id: str, *, headers: dict[str, str] | None = None, query: str = ""
) -> list[ServerSentEvent]:
    """Everything that the stream sends until it closes."""
    address = f"{live.url}/v1/jobs/{job_id}/events{query}"
    with httpx.Client(timeout=30) as http, connect_sse(http, "GET", address, headers=headers or {}) as source:
        assert source.response.status_code == 200
        return list(source.iter_sse())


def test_a_page_of_events_is_in_order_and_pages_on(either: Any, check_problem: Any) -> None:
    job_id = either.succeeded()
    address = f"/v1/jobs/{job_id}/events"
    whole = Page[Event].model_validate_json(either.http.get(address).content)
    assert [event.seq for event in whole.data] == list(range(1, len(whole.data) + 1))
    assert [event.type for event in whole.data] == ["queued", "started", "artifact", "succeeded"]
    assert whole.next_page_token is None

    first = either.http.get(address, params={"page_size": 3}).json()
    rest = either.http.get(address, params={"page_size": 3, "page_token": first["next_page_token"]}).json()
    assert [event["seq"] for event in first["data"] + rest["data"]] == [1, 2, 3, 4]
    assert rest["next_page_token"] is None
    assert [event["seq"] for event in either.http.get(f"{address}?after=2").json()["data"]] == [3, 4]

    other = either.submit()["id"]
    foreign = either.http.get(f"/v1/jobs/{other}/events", params={"page_token": first["next_page_token"]})
    check_problem(foreign, 400, "INVALID_PAGE_TOKEN")


def test_the_stream_of_a_job_that_has_ended_tells_all_and_ends(either: Any) -> None:
    job_id = either.succeeded()
    told = listened(either, job_id)
    assert [event.id for event in told[:-1]] == ["1", "2", "3", "4"]
    assert [Event.model_validate_json(event.data).type for event in told[:-1]][-1] == "succeeded"
    assert (told[-1].event, json.loads(told[-1].data)) == ("end", {"status": "succeeded"})


@pytest.mark.parametrize(
    ("headers", "query", "first"),
    [
        ({"Last-Event-ID": "2"}, "", 3),
        ({}, "?after=3", 4),
        ({"Last-Event-ID": "3"}, "?after=1", 4),
        ({"Last-Event-ID": "nonsense"}, "", 1),
        ({"Last-Event-ID": "9" * 90}, "", 1),
        ({"Accept": "application/json;q=0.5, text/event-stream"}, "", 1),
    ],
)
def test_the_stream_goes_on_behind_what_was_received(
    live: Any, headers: dict[str, str], query: str, first: int
) -> None:
    told = listened(live, live.succeeded(), headers=headers, query=query)
    assert told[0].id == str(first)
    assert told[-1].event == "end"


def test_a_stream_that_is_wholly_received_only_ends(live: Any) -> None:
    told = listened(live, live.succeeded(), query="?after=4000")
    assert [event.event for event in told] == ["end"]


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html", "text/event-stream;q=0", ""])
def test_who_does_not_ask_for_a_stream_gets_a_page(live: Any, accept: str) -> None:
    answer = live.http.get(f"/v1/jobs/{live.succeeded()}/events", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"


def test_a_stream_of_no_job_is_a_problem(live: Any, check_problem: Any) -> None:
    answer = live.http.get(f"/v1/jobs/job_{'0' * 26}/events", headers=STREAM)
    check_problem(answer, 404, "NOT_FOUND")


def test_events_come_live_and_the_stream_ends_with_the_job(either: Any) -> None:
    job_id = either.submit()["id"]
    told: list[ServerSentEvent] = []
    arrived = threading.Semaphore(0)

    def listen() -> None:
        address = f"{either.url}/v1/jobs/{job_id}/events"
        with httpx.Client(timeout=60) as http, connect_sse(http, "GET", address) as source:
            for event in source.iter_sse():
                told.append(event)
                arrived.release()

    listener = threading.Thread(target=listen)
    listener.start()
    assert arrived.acquire(timeout=30)
    claim = either.worker.claim(job_id)
    assert arrived.acquire(timeout=30)
    either.worker.do(leases.phase, claim, "training")
    assert arrived.acquire(timeout=30)
    assert listener.is_alive()
    either.worker.succeed(claim)
    listener.join(timeout=30)
    assert not listener.is_alive()
    types = [json.loads(event.data).get("type") for event in told]
    assert types == ["queued", "started", "phase", "artifact", "succeeded", None]
    assert told[-1].event == "end"


def test_a_stream_is_not_buffered_or_cached(live: Any) -> None:
    with live.http.stream("GET", f"/v1/jobs/{live.succeeded()}/events", headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert answer.read().startswith(b": the events of a job\n\n")


def event(seq: int, kind: Any = "warning") -> Event:
    """An event that nobody has stored."""
    return Event(seq=seq, type=kind, at=datetime.now(UTC), attempt=1, message="")


class History:
    """The events of jobs that nobody has stored, and every look and read of them."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[Event]] = {}
        self.ended: dict[str, str] = {}
        self.looks: list[tuple[str, ...]] = []
        self.reads: list[tuple[str, int]] = []
        self.away = 0
        """Answers that the database still owes."""
        self.meanwhile: Callable[[], None] = lambda: None
        """Called at each look."""

    def happen(self, *kinds: Any, job_id: str = "a") -> None:
        """Events, the last of which may be an end."""
        told = self.jobs.setdefault(job_id, [])
        told.extend([event(len(told) + number, kind) for number, kind in enumerate(kinds, 1)])
        ends = [kind for kind in kinds if kind in TERMINAL]
        self.ended |= {job_id: ends[0]} if ends else {}

    def standing(self, job_id: str = "a") -> Standing:
        return Standing(len(self.jobs.get(job_id, ())), self.ended.get(job_id, "running"))

    def look(self, job_ids: Sequence[str]) -> dict[str, Standing]:
        self.looks.append(tuple(job_ids))
        self.meanwhile()
        self._answer()
        return {job_id: self.standing(job_id) for job_id in job_ids if job_id in self.jobs}

    def read(self, job_id: str, seq: int) -> list[Event]:
        self.reads.append((job_id, seq))
        self._answer()
        return self.jobs[job_id][seq : seq + 200]

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("away")

    def listen(self, *job_ids: str, most: int = 1000, after: int = 0, **options: Any) -> list[list[str]]:
        """What a stream of each of these jobs gives, up to `most` pieces; all are open at once."""

        async def collect(feed: Feed, job_id: str) -> list[str]:
            pieces: list[str] = []
            async for piece in feed.stream(job_id, self.standing(job_id), after=after, **options):
                pieces.append(piece.decode())
                if len(pieces) == most:
                    break
            return pieces

        async def all_at_once() -> list[list[str]]:
            feed = Feed(self.look, self.read, first_pause_seconds=0.005, longest_pause_seconds=0.01)
            try:
                async with asyncio.timeout(60):
                    return await asyncio.gather(*(collect(feed, each) for each in job_ids))
            finally:
                await feed.close()

        return asyncio.run(all_at_once())


def test_a_silent_stream_sends_comments() -> None:
    history = History()
    history.happen("queued")
    (pieces,) = history.listen("a", most=5, comment_seconds=0.01)
    assert pieces[2:] == [": still there\n\n"] * 3


def test_a_stream_outlives_a_database_that_is_away() -> None:
    history = History()
    history.happen("queued")
    history.away = 3
    history.meanwhile = lambda: history.happen("succeeded") if len(history.looks) == 5 else None
    (pieces,) = history.listen("a")
    assert [line for line in "".join(pieces).splitlines() if line.startswith("id: ")] == ["id: 1", "id: 2"]
    assert pieces[-1] == 'event: end\ndata: {"status": "succeeded"}\n\n'


def test_an_end_is_told_at_once_though_another_event_stands_behind_it() -> None:
    history = History()
    history.happen("queued")
    history.meanwhile = lambda: history.happen("failed", "webhook_disabled") if len(history.looks) == 2 else None
    (pieces,) = history.listen("a")
    assert "id: 3" in pieces[-2]
    assert pieces[-1].startswith("event: end")
    assert len(history.looks) == 2


def test_many_who_wait_cost_one_look_for_all_and_one_read_for_each_burst_of_a_job() -> None:
    """Before, each of them asked the database by itself, five times to once a second."""
    history, followed = History(), ["a"] * 200 + ["b"] * 100
    for job_id in ("a", "b"):
        history.happen("queued", job_id=job_id)

    def go_on() -> None:
        if len(history.looks) == 20:
            history.happen("started", "phase", job_id="a")
        if len(history.looks) == 30:
            history.happen("succeeded", job_id="a")
            history.happen("cancelled", job_id="b")

    history.meanwhile = go_on
    heard = history.listen(*followed)
    assert history.looks[:30] == [("a", "b")] * 30
    assert sorted(history.reads) == [("a", 0), ("a", 1), ("a", 3), ("b", 0), ("b", 1)]
    for job_id, pieces in zip(followed, heard, strict=True):
        assert "".join(pieces).count("id: ") == len(history.jobs[job_id])
        assert pieces[-1].startswith("event: end")


def test_a_stream_of_a_job_that_is_deleted_closes_without_an_end() -> None:
    history = History()
    history.happen("queued")
    history.meanwhile = lambda: history.jobs.clear() if len(history.looks) == 2 else None
    (pieces,) = history.listen("a")
    assert "id: 1" in pieces[-1]


def test_what_breaks_the_looking_reaches_everyone_who_waits() -> None:
    history = History()
    history.happen("queued")

    def broken() -> None:
        raise RuntimeError("broken")

    history.meanwhile = broken
    with pytest.raises(RuntimeError, match="broken"):
        history.listen("a", "a")


def test_a_long_history_is_told_in_order_from_any_place_on() -> None:
    history = History()
    history.happen(*["warning"] * 999, "succeeded")
    (pieces,) = history.listen("a")
    told = [int(line[4:]) for piece in pieces for line in piece.splitlines() if line.startswith("id: ")]
    assert told == list(range(1, 1001))
    (rest,) = history.listen("a", after=990)
    assert "".join(rest).count("id: ") == 10


def test_nothing_is_read_for_those_who_wait_for_a_status_until_something_happens(live: Any) -> None:
    job_id = live.submit()["id"]
    statements: list[str] = []
    database, give_up = live.app.state.service.database, time.monotonic() + 45

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement != "BEGIN":
            statements.append(statement)

    async def all_of_them(count: int) -> None:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=count)) as http:
            address = f"{live.url}/v1/jobs/{job_id}?wait=60"
            waiting = [asyncio.create_task(http.get(address)) for _ in range(count)]
            # Of twenty clients who ask for themselves nobody ever sees five looks in a row.
            looks = ["SELECT jobs.id, jobs.last_seq, jobs.status"] * 5
            while [each.split(" \n")[0] for each in statements[-5:]] != looks:
                assert time.monotonic() < give_up, statements[-5:]
                await asyncio.sleep(0.01)
            await asyncio.to_thread(live.worker.claim, job_id)
            assert [each.json()["status"] for each in await asyncio.gather(*waiting)] == ["running"] * count

    listen(database._engine, "before_cursor_execute", note)
    asyncio.run(all_of_them(20))
    remove(database._engine, "before_cursor_execute", note)


def test_a_job_that_tells_much_is_not_read_for_each_of_its_events_by_those_who_wait(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = live.submit()["id"]
    claim, reads, read = live.worker.claim(job_id), [], routes._read
    monkeypatch.setattr(routes, "_read", lambda *asked: reads.append(asked) or read(*asked))
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(live.http.get(f"/v1/jobs/{job_id}?wait=60", timeout=70)))
    waiting.start()
    began = time.monotonic()
    while time.monotonic() < began + 3:
        live.worker.do(leases.event, claim, "warning", "A word.")
    live.worker.do(leases.phase, claim, "training")
    waiting.join(timeout=30)
    assert answers[0].json()["phase"] == "training"
    assert 3 <= len(reads) <= 3 + (time.monotonic() - began) / LOOK_SECONDS


def test_the_statements_of_a_live_service_do_not_grow_with_those_who_listen(live: Any) -> None:
    """Real streams over a real database: between two looks nothing is asked, however many are open."""
    job_id = live.submit()["id"]
    statements: list[str] = []
    database = live.app.state.service.database

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    async def hear(http: httpx.AsyncClient, opened: asyncio.Semaphore) -> int:
        address = f"{live.url}/v1/jobs/{job_id}/events"
        async with aconnect_sse(http, "GET", address) as source:
            told = source.aiter_sse()
            assert json.loads((await anext(told)).data)["type"] == "queued"
            opened.release()
            return len([each async for each in told])

    async def all_of_them(count: int) -> None:
        opened = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            tasks = [asyncio.create_task(hear(http, opened)) for _ in range(count)]
            for _ in range(count):
                await opened.acquire()
            listen(database._engine, "before_cursor_execute", note)
            while sum("last_seq" in each for each in statements) < 3:  # three looks, in which nothing has happened
                await asyncio.sleep(0.01)
            idle = [each for each in statements if each.startswith("SELECT")]
            await asyncio.to_thread(lambda: live.worker.succeed(live.worker.claim(job_id)))
            heard = await asyncio.gather(*tasks)
        remove(database._engine, "before_cursor_execute", note)
        assert all("last_seq" in each for each in idle)
        assert heard == [4] * count
        reads = [each for each in statements if "FROM events" in each]
        assert len(reads) <= 3, "of what happened: one for each look that saw something new"

    asyncio.run(all_of_them(40))
