"""The outermost door: a trace id for every request, one log line, counters, and the answer to what nobody foresaw."""

import logging
import re
import secrets
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from app.log import facts

TRACE_HEADER = "X-Request-Id"
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds: counted, but not logged."""
_TRACE_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_GONE = 499
"""Recorded when the client left before the first byte of the answer."""


class RequestMeter:
    """Counts requests and times them, by route template so that ids do not become series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "distillery_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "distillery_http_first_byte_seconds",
            "Seconds from a request to the first byte of its answer.",
            ["method", "route"],
            registry=self.registry,
        )
        self._cut = Counter(
            "distillery_connections_cut",
            "Connections closed against the client's will, by reason.",
            ["reason"],
            registry=self.registry,
        )

    def cut(self, reason: str) -> None:
        """Add one connection that was closed because its client was too slow, too silent or unreadable."""
        self._cut.labels(reason).inc()

    def record(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Add one request."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)


class Observe:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, *, log: logging.Logger, meter: RequestMeter) -> None:
        self._app = app
        self._log = log
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an error that nothing below has turned into an answer becomes a bare 500."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        trace_id = _trace_id(scope)
        scope.setdefault("state", {})["trace_id"] = trace_id
        answer = _Answer(send, trace_id)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # the last door: whatever it is, the client gets a problem and the log the cause
            self._log.exception("request failed", extra=facts(trace_id=trace_id, error=type(error).__name__))
            if answer.status:
                raise
            detail = "The service failed in a way that was not foreseen; its log tells more under this trace_id."
            await problem(scope, 500, detail=detail)(scope, receive, answer.send)
        finally:
            self._record(scope, answer, trace_id)
        return None

    def _record(self, scope: Scope, answer: "_Answer", trace_id: str) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = answer.status or _GONE
        self._meter.record(method=method, route=route, status=status, seconds=answer.first_byte_seconds)
        if scope["path"] not in QUIET:
            milliseconds = round(answer.first_byte_seconds * 1000, 1)
            told = facts(method=method, route=route, status=status, milliseconds=milliseconds, trace_id=trace_id)
            self._log.info("request", extra=told)


class _Answer:
    """Passes an answer on, with the trace id in its head; remembers its status and when it began."""

    def __init__(self, send: Send, trace_id: str) -> None:
        self._send = send
        self._trace_id = trace_id
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._first_byte = time.perf_counter()
            headers = MutableHeaders(scope=message)
            headers[TRACE_HEADER] = self._trace_id
            headers["X-Content-Type-Options"] = "nosniff"
        await self._send(message)

    @property
    def first_byte_seconds(self) -> float:
        return (self._first_byte or time.perf_counter()) - self._began


def _trace_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get(TRACE_HEADER, "")
    return sent if _TRACE_FORM.fullmatch(sent) else secrets.token_hex(8)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
