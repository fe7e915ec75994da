"""Answers that are held back until something has changed, or the time is over."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from distillery.views import TERMINAL

LOOK_SECONDS = 0.5
"""Between two looks at the row while a client waits."""


class HasStatus(Protocol):
    """Work of any kind."""

    @property
    def status(self) -> str:
        """One of `distillery.views.Status`."""


T = TypeVar("T", bound=HasStatus)


async def changed(request: Request, read: Callable[[], T], *, wait_seconds: float) -> T:
    """What `read` gives once its status is another than now, or after so many seconds."""
    view = await run_in_threadpool(read)
    seen = view.status
    return await _until(request, read, view, wait_seconds=wait_seconds, done=lambda now: now.status != seen)


async def ended(request: Request, read: Callable[[], T], *, wait_seconds: float) -> T:
    """What `read` gives once it has ended, or after so many seconds."""
    view = await run_in_threadpool(read)
    return await _until(request, read, view, wait_seconds=wait_seconds, done=lambda now: now.status in TERMINAL)


async def _until(
    request: Request, read: Callable[[], T], view: T, *, wait_seconds: float, done: Callable[[T], bool]
) -> T:
    deadline = time.monotonic() + wait_seconds
    while not done(view) and view.status not in TERMINAL:
        left = deadline - time.monotonic()
        if left <= 0 or await request.is_disconnected():
            break
        await asyncio.sleep(min(LOOK_SECONDS, left))
        view = await run_in_threadpool(read)
    return view
