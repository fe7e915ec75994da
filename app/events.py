"""The live stream of a job's events (server-sent events), replayed from the database from any point on."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from distillery.errors import Unavailable
from distillery.views import TERMINAL, Event

COMMENT_SECONDS = 15.0
"""A silent connection is cut by proxies; a comment keeps it alive and is ignored by clients."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 1.0


STATUS_SECONDS = 5.0
"""An end shows as an event; the status is only looked at for those who join after it."""


@dataclass(frozen=True)
class News:
    """What has happened to a job since a point in its history; its status too, where it was asked for."""

    events: list[Event]
    status: str = ""


class Reader(Protocol):
    """Reads the events after `seq`; with none, and `with_status`, the status as of the same moment."""

    def __call__(self, seq: int, *, with_status: bool) -> News: ...


async def stream(
    read: Reader,
    *,
    after: int,
    comment_seconds: float = COMMENT_SECONDS,
    pause_seconds: float = FIRST_PAUSE_SECONDS,
) -> AsyncIterator[bytes]:
    """Everything that happens after event number `after`, until the job has ended and all of it is told.

    While the database is away the stream waits for it: the client has nothing better to do.
    """
    yield format_sse_event(comment="the events of a job")
    pause, spoke, looked = pause_seconds, time.monotonic(), -math.inf
    while True:
        with_status = time.monotonic() - looked >= STATUS_SECONDS
        news = await run_in_threadpool(_patient, read, after, with_status=with_status)
        if news.status in TERMINAL:
            yield format_sse_event(event="end", data_str=f'{{"status": "{news.status}"}}')
            return
        for event in news.events:
            yield format_sse_event(id=str(event.seq), data_str=event.model_dump_json())
        if news.events:
            after, pause, spoke = news.events[-1].seq, pause_seconds, time.monotonic()
            # Not only the last one: word of a webhook may come behind the end.
            looked = -math.inf if any(event.type in TERMINAL for event in news.events) else looked
            continue
        looked = time.monotonic() if with_status else looked
        if time.monotonic() - spoke >= comment_seconds:
            yield format_sse_event(comment="still there")
            spoke = time.monotonic()
        await asyncio.sleep(min(pause, comment_seconds))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def _patient(read: Reader, after: int, *, with_status: bool) -> News:
    try:
        return read(after, with_status=with_status)
    except Unavailable:
        return News([])
