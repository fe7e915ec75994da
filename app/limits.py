"""Bounds on what a request may bring: one JSON document of at most 1 MiB, 16 levels deep, within 30 seconds.

Or, at the addresses that take them, a part of an upload or what is to be predicted: their routes read these as they
come, within bounds of their own.
"""

import asyncio
import json
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.bounds import BODY_SECONDS
from app.errors import problem

MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 16
PART_PATH = re.compile(r"/v1/uploads/[^/]{1,60}/parts/[^/]{1,20}")
PREDICT_PATH = re.compile(r"/v1/(jobs|models)/[^/]{1,60}/predict")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class _Refused(Exception):
    def __init__(self, status: int, detail: str, *, hint: str, code: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint, self.code = status, detail, hint, code


class BodyLimits:
    """Reads a body, checks it, and only then lets the application see it."""

    def __init__(self, app: ASGIApp, *, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a checked body, or refuse it with 400, 408, 413 or 415."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY or _is_read_by_its_route(scope):
            return await self._app(scope, receive, send)
        try:
            body = await self._read(Headers(scope=scope), receive)
            if body is None:
                return None
            _check(body, Headers(scope=scope))
        except _Refused as no:
            refusal = problem(
                scope, no.status, detail=no.detail, hint=no.hint, code=no.code, headers={"Connection": "close"}
            )
            return await refusal(scope, receive, send)
        return await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None when the client has gone."""
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_JSON_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(self._seconds):
                return await _collect(receive)
        except TimeoutError:
            detail = f"The body was not whole after {self._seconds:g} seconds."
            raise _Refused(408, detail, hint="Send it again, in one go.") from None


def _is_read_by_its_route(scope: Scope) -> bool:
    path = {"PUT": PART_PATH, "POST": PREDICT_PATH}.get(scope["method"])
    return path is not None and path.fullmatch(scope["path"]) is not None


async def _collect(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_JSON_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def _too_large() -> _Refused:
    return _Refused(413, f"The body is larger than {MAX_JSON_BYTES} bytes.", hint="A job spec is a few kilobytes.")


def _check(body: bytes, headers: Headers) -> None:
    if not body:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        shown = f"'{kind[:100]}'" if kind else "of no stated type"
        raise _Refused(415, f"The body is {shown}.", hint="Send JSON, with 'Content-Type: application/json'.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _Refused(415, "The body is compressed.", hint="Send it without 'Content-Encoding'.")
    try:
        value = json.loads(body.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        hint = "Send one JSON object, in UTF-8."
        raise _Refused(400, f"The body is not JSON: {error}.", hint=hint, code="INVALID_JSON") from None
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise _too_deep()


def _too_deep() -> _Refused:
    detail = f"The JSON is nested deeper than {MAX_JSON_DEPTH} levels."
    return _Refused(400, detail, hint="No spec needs that.", code="JSON_TOO_DEEP")


def _deeper_than(value: Any, levels: int) -> bool:
    here = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        inside = (item for outer in here for item in (outer.values() if isinstance(outer, dict) else outer))
        here = [item for item in inside if isinstance(item, (dict, list))]
        if not here:
            return False
    return True
