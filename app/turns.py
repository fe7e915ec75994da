"""Turns: of the requests of one client so many are worked on at once, and the others wait for theirs, but not for long.

A request keeps its turn until the body of its answer begins to be sent: a long download is no more work from then on
than an event stream. What waits by its nature, event streams and long polls, takes no turn and is counted apart.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.bounds import Bounds
from app.errors import problem
from app.negotiate import wants_stream

RETRY_AFTER_SECONDS = 1


@dataclass
class _Client:
    """What one key, or one address, has going on."""

    turns: asyncio.Semaphore | None
    requests: int = 0
    streams: int = 0


@dataclass
class _Turn:
    """To be given back once, whoever does it first."""

    semaphore: asyncio.Semaphore | None

    def end(self) -> None:
        if self.semaphore is not None:
            self.semaphore.release()
            self.semaphore = None


class Turns:
    """Stands behind the key check, which tells whose request it is, and before everything that works."""

    def __init__(self, app: ASGIApp, *, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds
        self._clients: dict[str, _Client] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request in its turn, or refuse it with 429."""
        who, limit = self._whose(scope)
        if who is None:
            return await self._app(scope, receive, send)
        with self._client(who, limit=limit) as client:
            if _waits(scope):
                return await self._stream(client, scope, receive, send)
            return await self._work(client, scope, receive, send)

    def _whose(self, scope: Scope) -> tuple[str | None, int]:
        if scope["type"] != "http":
            return None, 0
        if key := scope.get("state", {}).get("key"):
            return f"key {key}", self._bounds.requests_per_key
        if self._bounds.requests_per_address and scope.get("client"):
            return f"address {scope['client'][0]}", self._bounds.requests_per_address
        return None, 0

    @contextmanager
    def _client(self, who: str, *, limit: int) -> Iterator[_Client]:
        client = self._clients.setdefault(who, _Client(asyncio.Semaphore(limit) if limit else None))
        client.requests += 1
        try:
            yield client
        finally:
            client.requests -= 1
            if not client.requests:
                self._clients.pop(who, None)

    async def _stream(self, client: _Client, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._bounds.streams_per_key
        if limit and client.streams >= limit:
            detail = f"{limit} event streams and long polls are open already."
            return await _refused(scope, detail, hint="Close some.")(scope, receive, send)
        client.streams += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            client.streams -= 1

    async def _work(self, client: _Client, scope: Scope, receive: Receive, send: Send) -> None:
        turn = _Turn(client.turns)
        if client.turns is not None:
            try:
                async with asyncio.timeout(self._bounds.turn_seconds):
                    await client.turns.acquire()
            except TimeoutError:
                detail = f"Too many requests at once: this one had no turn within {self._bounds.turn_seconds:g} s."
                return await _refused(scope, detail, hint="Send fewer at a time.")(scope, receive, send)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body":
                turn.end()
            await send(message)

        try:
            return await self._app(scope, receive, sending)
        finally:
            turn.end()


def _waits(scope: Scope) -> bool:
    if scope["method"] != "GET":
        return False
    return wants_stream(Headers(scope=scope).get("accept")) or "wait" in Request(scope).query_params


def _refused(scope: Scope, detail: str, *, hint: str) -> ASGIApp:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"}
    return problem(scope, 429, detail=detail, hint=hint, headers=headers)
