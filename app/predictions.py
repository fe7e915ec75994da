"""Predictions are computed by inference workers: found in the database, asked over HTTP, within bounds.

The API never loads a network. What it holds for a prediction is the body and a place, and both are given back when the
answer is there, the time is over, or the client has gone.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.bounds import Bounds
from distillery import relay
from distillery.errors import InvalidRequest, TooBusy, TooLarge, Unavailable
from distillery.predictions import MEDIA_TYPES, MOST_BODY_BYTES
from distillery.turnstile import Turnstile
from store.inference import InferenceWorker
from store.servable import Asked

CONNECT_SECONDS = 2.0
KNOWN_SECONDS = 1.0
"""Looking up what is asked, and who may be, takes as long as everything else that the API does for a prediction."""
MOST_KNOWN = 64
_BODIES = 8
"""Of the largest bodies there may be so many in memory."""
_START = "Start one with: python -m worker.inference. `distillery up` and docker compose bring one along."


@dataclass(frozen=True)
class Found:
    """Which networks are asked about, and who can be asked."""

    asked: Asked
    workers: Sequence[InferenceWorker]


Find = Callable[[], Found]
Options = dict[str, Any]
"""Fields of `Asked` that differ from request to request."""


class Predictions:
    """The way from the API to the inference workers; `close` it at the end."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._turnstile = Turnstile(requests=bounds.predictions, bytes_=_BODIES * MOST_BODY_BYTES)
        self._known: dict[tuple[str, str], tuple[float, Found]] = {}
        """By id and runtime, each with when it is to be looked up again."""
        # No proxy of the environment stands between the parts of a service.
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(bounds.prediction_seconds + CONNECT_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=bounds.predictions, max_keepalive_connections=16),
        )

    @property
    def under_way(self) -> int:
        """How many predictions have a place."""
        return self._turnstile.requests

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def answer(self, request: Request, find: Find, *, about: tuple[str, str], options: Options) -> bytes:
        """The answer to a request as JSON. `find` looks the networks and the workers up; what it finds holds for a
        second for all that is `about` the same id and runtime.

        Raises:
            TooBusy: too many predictions are under way here or at the workers.
            TooLarge: the body is.
            Unavailable: no inference worker answers.
            distillery.errors.DistilleryError: what a worker says against the request.
        """
        media_type = _media_type(request)
        with self._turnstile.place(_announced(request)):
            found, fresh = await self._found(find, about)
            body = await self._read(request)
            told = options | {"media_type": media_type}
            answer = await self._unless_gone(request, self._ask(found, told, body))
            if answer is None and not fresh:  # others may have come since it was looked up
                self._known.pop(about, None)
                found, _ = await self._found(find, about)
                answer = await self._unless_gone(request, self._ask(found, told, body))
            if answer is None:
                raise Unavailable("No inference worker answers any more.", hint=_START)
            return answer

    async def _found(self, find: Find, about: tuple[str, str]) -> tuple[Found, bool]:
        """What is known, and whether it was looked up just now."""
        now = time.monotonic()
        known = self._known.get(about)
        if known is not None and known[0] > now:
            return known[1], False
        found = await run_in_threadpool(find)
        if not found.workers:
            raise Unavailable("No inference worker is running, and predictions need one.", hint=_START)
        while len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[about] = (now + KNOWN_SECONDS, found)
        return found, True

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > MOST_BODY_BYTES:
                        raise _too_large()
        except TimeoutError:
            raise HTTPException(408, f"The body was not whole after {self._bounds.body_seconds:g} seconds.") from None
        if not body:
            raise InvalidRequest("The request has no body.", hint="Send the bytes of an image, or a JSON object.")
        return bytes(body)

    async def _ask(self, found: Found, options: Options, body: bytes) -> bytes | None:
        """Ask one worker after the other, until one is there and has time; None when none is there. To ask twice does
        no harm.
        """
        content = found.asked.model_copy(update=options).model_dump_json().encode() + b"\n" + body
        busy: TooBusy | None = None
        try:
            async with asyncio.timeout(self._bounds.prediction_seconds):
                for worker in _in_turn(found):
                    try:
                        return await self._once(content, worker)
                    except TooBusy as error:
                        busy = error
                    except httpx.TransportError:
                        continue
        except TimeoutError:
            raise Unavailable(
                f"The inference worker did not answer within {self._bounds.prediction_seconds:g} seconds.",
                hint="Ask about fewer images at a time, or raise DISTILLERY_PREDICTION_SECONDS.",
            ) from None
        if busy is not None:
            raise busy
        return None

    async def _once(self, content: bytes, worker: InferenceWorker) -> bytes:
        headers = {"Authorization": f"Bearer {worker.token}", "Content-Type": "application/octet-stream"}
        answer = await self._http.post(f"{worker.url}/predict", content=content, headers=headers)
        if answer.is_success:
            return answer.content
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # another process listens where that one did
            raise httpx.ConnectError("not the worker that was announced")
        raise relay.unpacked(answer.content)

    async def _unless_gone(self, request: Request, asking: Any) -> bytes | None:
        """The answer; when the client hangs up before, the worker is no longer waited for, and hears of it."""
        working = asyncio.ensure_future(asking)
        leaving = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            answer: bytes | None = working.result()
            return answer
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _in_turn(found: Found) -> list[InferenceWorker]:
    """The workers, first the one that is asked for this network every time, so that not each of them loads it."""
    wanted = found.asked.networks[0].sha256

    def weight(worker: InferenceWorker) -> bytes:
        return hashlib.sha256(f"{wanted}/{worker.id}".encode()).digest()

    return sorted(found.workers, key=weight)


def _media_type(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        shown = f"'{kind[:100]}'" if kind else "of no stated type"
        raise HTTPException(415, f"The body is {shown}. Read are {', '.join(MEDIA_TYPES)}.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "The body is compressed. Send it without 'Content-Encoding'.")
    return kind


def _announced(request: Request) -> int:
    """Bytes of the body; of one that does not say, the most that there may be."""
    text = request.headers.get("content-length", "")
    size = int(text) if text.isdecimal() else MOST_BODY_BYTES
    if size > MOST_BODY_BYTES:
        raise _too_large()
    return size


def _too_large() -> TooLarge:
    return TooLarge(
        f"The body is larger than {MOST_BODY_BYTES:,} bytes.", hint="Send fewer images at a time, or smaller ones."
    )
