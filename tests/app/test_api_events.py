"""Events: pages, and the live stream with its replay, its comments and its end."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from app.events import News, stream
from distillery.errors import Unavailable
from distillery.views import Event, Page
from store import leases

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


def collected(read: Callable[..., News], *, most: int = 1000, **options: Any) -> list[str]:
    """What the stream over `read` gives, up to `most` pieces."""

    async def collect() -> list[str]:
        pieces: list[str] = []
        async for piece in stream(read, after=0, **options):
            pieces.append(piece.decode())
            if len(pieces) == most:
                break
        return pieces

    return asyncio.run(collect())


def test_a_silent_stream_sends_comments() -> None:
    pieces = collected(
        lambda seq, *, with_status: News([], "running"), most=4, comment_seconds=0.01, pause_seconds=0.01
    )
    assert pieces[1:] == [": still there\n\n"] * 3


def test_a_stream_outlives_a_database_that_is_away() -> None:
    answers: list[Any] = [
        News([event(1)]),
        Unavailable("away"),
        Unavailable("away"),
        News([event(2, "succeeded")]),
        News([], "succeeded"),
    ]

    def read(seq: int, *, with_status: bool) -> News:
        answer = answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer  # type: ignore[no-any-return] # the list holds both kinds

    pieces = collected(read, pause_seconds=0.001)
    assert [piece for piece in pieces if "id: " in piece] == [pieces[1], pieces[2]]
    assert pieces[-1] == 'event: end\ndata: {"status": "succeeded"}\n\n'


def test_the_status_is_looked_at_first_and_after_an_end_but_not_at_every_turn() -> None:
    looks: list[bool] = []

    def read(seq: int, *, with_status: bool) -> News:
        looks.append(with_status)
        if len(looks) == 20:
            return News([event(1, "failed")])
        return News([], "failed" if len(looks) > 20 else "running")

    collected(read, pause_seconds=0.0001)
    assert looks[0] is True
    assert looks[1:20] == [False] * 19
    assert looks[20] is True


def test_an_end_is_told_at_once_though_another_event_stands_behind_it() -> None:
    looks: list[bool] = []

    def read(seq: int, *, with_status: bool) -> News:
        looks.append(with_status)
        ended = [event(1, "failed"), event(2, "webhook_disabled")]
        return {1: News([], "running"), 2: News(ended)}.get(len(looks), News([], "failed"))

    collected(read, pause_seconds=0.0001)
    assert looks == [True, False, True]
