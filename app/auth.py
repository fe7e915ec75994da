"""The key check. It stands before everything that reads a body, so a stranger can make the service read nothing."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import problem

OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""What an orchestrator asks without a key."""


class KeyCheck:
    """Refuses every request without `Authorization: Bearer <key>`; with no key configured, lets all pass.

    Tells those behind it whose request it is: `state["key"]` is the key's digest.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self._app = app
        self._digest = _digest(api_key.encode()) if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 without a single read."""
        if scope["type"] != "http" or self._digest is None or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        if self._holds_key(scope):
            scope.setdefault("state", {})["key"] = self._digest.hex()
            return await self._app(scope, receive, send)
        refusal = problem(
            scope,
            401,
            detail="This service needs an API key, and the request brings none or a wrong one.",
            hint="Send the header 'Authorization: Bearer <key>'.",
            headers={"WWW-Authenticate": 'Bearer realm="distillery"', "Connection": "close"},
        )
        return await refusal(scope, receive, send)

    def _holds_key(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        sent = _digest(key.strip().encode("latin-1"))
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, self._digest or b"")


def _digest(key: bytes) -> bytes:
    """Of one length for every key, so that the comparison tells nothing about it."""
    return hashlib.sha256(key).digest()
