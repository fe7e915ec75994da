"""HTTP for clients that are slow, silent or hostile: uvicorn's own protocol would wait for each of them for ever.

`Gate` knows every connection of a server and looks at all of them ten times a second: who keeps it waiting too long is
told so, where an answer can still be given, and closed.
"""

import enum
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.bounds import Bounds
from app.errors import problem
from app.observe import TRACE_HEADER

MAX_PIPELINED = 16
"""Requests that may wait on one connection behind the one being answered."""
LOBBY = 32
"""Connections beyond the limit that are still told so, rather than cut off without a word."""
RETRY_AFTER_SECONDS = 5
_LONGEST_LOOK_SECONDS = 1.0
"""More than that since the last look means that this process was held up, for which no client is to blame."""
_WRAPPING_PER_BYTE = 8
"""A body sent byte by byte needs five bytes around each; more is a flood of chunk extensions or trailers."""
_SLOW_AFTER_SECONDS = 2.0


class _Reading(enum.Enum):
    """What of a request is being waited for."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class _Stop(Exception):
    """Raised within the parser's callbacks, to make it stop."""


@dataclass(frozen=True)
class _Refusal:
    """Why a connection is closed, in a word for the counter and in a problem for the client."""

    reason: str
    status: int
    detail: str
    hint: str

    def response(self) -> Response:
        """The problem document, with a trace id of its own."""
        trace_id = secrets.token_hex(8)
        headers = {"Connection": "close", TRACE_HEADER: trace_id}
        headers |= {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status == 503 else {}
        code = "TOO_MANY_CONNECTIONS" if self.status == 503 else ""
        scope = {"state": {"trace_id": trace_id}}
        return problem(scope, self.status, detail=self.detail, hint=self.hint, code=code, headers=headers)


class Gate:
    """The connections of one server."""

    def __init__(self, bounds: Bounds, *, cut: Callable[[str], None]) -> None:
        self.bounds = bounds
        self.cut = cut
        """Called with the reason whenever a connection is closed against the client's will."""
        self.now = 0.0
        """Seconds of the time in which this process ran."""
        self._looked = time.monotonic()
        self._open: set[GuardedProtocol] = set()
        self._placed = 0
        """How many have a place: they came below the limit, and their end has not been decided."""
        self._waiting: dict[GuardedProtocol, None] = {}
        """Of these, the ones that have nothing to do but wait for a head, the one that has waited longest first."""

    def protocol(self, **given: Any) -> "GuardedProtocol":
        """A protocol for a new connection, made as uvicorn makes its own."""
        return GuardedProtocol(self, **given)

    def sweep(self) -> None:
        """Look at every connection, and close those that are overdue."""
        real = time.monotonic()
        elapsed = min(real - self._looked, _LONGEST_LOOK_SECONDS)
        self._looked = real
        self.now += elapsed
        for connection in tuple(self._open):
            connection.look(elapsed)

    def admit(self, connection: "GuardedProtocol") -> None:
        """Let a connection in. Above the limit, the one that has waited longest without a whole request makes room;
        where all are at work, the new one's request will be refused.
        """
        self._open.add(connection)
        spare = self._spare() if self._placed >= self.bounds.connections else None
        if spare is not None:
            spare.make_room()
        if self._placed < self.bounds.connections:
            connection.placed = True
            self._placed += 1
            self.settle(connection)
            return
        connection.crowded = True
        lobby = [each for each in self._open if each.crowded and not each.closing]
        if len(lobby) > LOBBY:
            min(lobby, key=lambda each: each.since).make_room()

    def _spare(self) -> "GuardedProtocol | None":
        """Who is to make room: the one that has waited longest, else that whose body has come slowly for longest."""
        while (first := next(iter(self._waiting), None)) is not None:
            if not first.closing:
                return first
            self.settle(first)
        slow = [each for each in self._open if each.placed and not each.closing and each.slow_body]
        return min(slow, key=lambda each: each.since, default=None)

    def settle(self, connection: "GuardedProtocol") -> None:
        """Note what has become of a connection: that it waits from now on, is at work, or gives up its place.

        To be told whenever `since` is set anew. Everything here takes the same time however many connections there are.
        """
        self._waiting.pop(connection, None)
        if connection.placed and (connection.closing or connection not in self._open):
            connection.placed = False
            self._placed -= 1
        if connection.placed and connection.waiting:
            self._waiting[connection] = None

    def leave(self, connection: "GuardedProtocol") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self.settle(connection)


class GuardedProtocol(HttpToolsProtocol):
    """One connection, with deadlines and limits."""

    def __init__(self, gate: Gate, **given: Any) -> None:
        super().__init__(**given)
        self._gate = gate
        self._bounds = gate.bounds
        self._inner: Any = self.app
        self.app = self._answer
        self.crowded = False
        """It came when all places were taken."""
        self.placed = False
        """It takes one of the places."""
        self.since = gate.now
        """Since when there has been no whole request."""
        self._reading = _Reading.NOTHING
        self._served = self._deaf = False
        self._messages = self._head_bytes = self._body_bytes = self._wrapping_bytes = 0
        self._body_seconds = 0.0
        self._unsent_bytes = 0
        self._unread_since = gate.now
        self._streams_events = False
        self._refusal = _Refusal("unreadable", 400, "These bytes are no HTTP request.", "Speak HTTP/1.1, without TLS.")

    # What the gate asks.

    @property
    def closing(self) -> bool:
        """Whether its end has been decided."""
        return bool(self.transport.is_closing())

    @property
    def waiting(self) -> bool:
        """Whether it has nothing to do but wait for a head."""
        return not self._busy and self._reading is not _Reading.BODY

    @property
    def slow_body(self) -> bool:
        """Whether a body comes slower than it must in the long run."""
        slow = self._body_bytes < self._body_seconds * self._bounds.body_bytes_per_second
        return self._reading is _Reading.BODY and self._body_seconds > _SLOW_AFTER_SECONDS and slow

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def look(self, elapsed: float) -> None:
        """Close the connection when its client is overdue; `elapsed` seconds have passed since the last look."""
        if self._unread():
            self._gate.cut("unread")
            return self.transport.abort()
        if self.closing:
            return None
        if self._reading is _Reading.BODY:
            return self._look_at_body(elapsed)
        if self.waiting:
            self._look_at_wait()
        return None

    def make_room(self) -> None:
        """Close in favour of another connection."""
        if self._reading is _Reading.NOTHING:
            self._gate.cut("crowded")
            return self._close()
        detail = "The service has no more connections free, and this one has waited longest for its request."
        return self._refuse(_Refusal("crowded", 503, detail, "Send requests in one go."))

    def _unread(self) -> bool:
        """Whether the client has taken nothing of what lies here for it for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent_bytes:
            self._unread_since = self._gate.now
        self._unsent_bytes = unsent
        return self._gate.now - self._unread_since >= self._bounds.unread_seconds

    def _look_at_body(self, elapsed: float) -> None:
        if not self.flow.read_paused:  # else it is the application that is slow
            self._body_seconds += elapsed
        if self._body_seconds <= self._bounds.body_seconds or not self.slow_body:
            return
        detail = (
            f"After {self._body_seconds:.0f} seconds {self._body_bytes} bytes of the body had come, "
            f"fewer than {self._bounds.body_bytes_per_second} a second."
        )
        self._refuse(_Refusal("slow_body", 408, detail, "Use a faster connection, or send smaller parts."))

    def _look_at_wait(self) -> None:
        waited, bounds = self._gate.now - self.since, self._bounds
        if self._reading is _Reading.HEAD:
            if waited >= bounds.head_seconds:
                detail = f"The head of the request was not whole after {bounds.head_seconds:g} seconds."
                self._refuse(_Refusal("slow_head", 408, detail, "Send it again, in one go."))
        elif waited >= (bounds.keep_alive_seconds if self._served else bounds.head_seconds):
            if not self._served:
                self._gate.cut("silent")
            self._close()

    # What the transport tells.

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._gate.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._gate.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a head or a wrapping of the body that grows and grows."""
        if self._deaf:
            return
        reading, messages, body_bytes = self._reading, self._messages, self._body_bytes
        super().data_received(data)
        if self.closing or self._messages - messages > (reading is _Reading.NOTHING):
            return  # or it began within what came, whose share in it is not known
        if self._reading is _Reading.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(self._head_too_large())
        elif reading is self._reading is _Reading.BODY:
            self._wrapping_bytes += len(data) - (self._body_bytes - body_bytes)
            if self._wrapping_bytes > self._bounds.head_bytes + _WRAPPING_PER_BYTE * self._body_bytes:
                detail = "There is far more around the body than in it."
                self._refuse(_Refusal("wrapping", 400, detail, "Send it in larger chunks, without trailers."))

    def shutdown(self) -> None:
        """The server stops: an event stream has no end of its own, and its client comes back by itself."""
        if self._streams_events and self._busy:
            self._close()
        else:
            super().shutdown()

    # What the parser tells.

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._reading, self._head_bytes = _Reading.HEAD, 0
        self._messages += 1
        if self._served:
            self.since = self._gate.now
            self._gate.settle(self)

    def on_headers_complete(self) -> None:
        """Take the request, unless its head is too large or too many wait already."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._bounds.head_bytes:
            self._stop_parsing(self._head_too_large())
        if len(self.pipeline) >= MAX_PIPELINED:
            detail = f"More than {MAX_PIPELINED} requests wait on this connection."
            self._stop_parsing(_Refusal("pipelined", 400, detail, "Wait for answers, or open another connection."))
        super().on_headers_complete()
        self._reading = _Reading.BODY
        self._body_bytes = self._wrapping_bytes = 0
        self._body_seconds = 0.0
        self._gate.settle(self)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._reading, self.since = _Reading.NOTHING, self._gate.now
        super().on_message_complete()
        self._gate.settle(self)

    def on_response_complete(self) -> None:
        """The request is answered; what is still to come of its body is of no use to anybody."""
        self._served, self._streams_events = True, False
        self.since = self._gate.now
        unwanted = self._reading is _Reading.BODY and not self.pipeline
        super().on_response_complete()
        if unwanted:
            self.transport.close()
        self._gate.settle(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not or should not read."""
        self._refuse(self._refusal)

    def _stop_parsing(self, refusal: _Refusal) -> None:
        self._refusal = refusal
        raise _Stop

    def _head_too_large(self) -> _Refusal:
        detail = f"The head of the request is larger than {self._bounds.head_bytes} bytes."
        return _Refusal("large_head", 431, detail, "Send fewer or shorter headers, and a shorter address.")

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer and close. Where other requests are still being answered, there is no place for one more answer: those
        that were whole get theirs, nothing more is heard, and then the connection is closed.
        """
        self._gate.cut(refusal.reason)
        if self._busy and self._reading is not _Reading.BODY:
            self._deaf, self.cycle.keep_alive = True, False
        elif self._busy and (self.pipeline or self.cycle.response_started):
            self.transport.abort()
        else:
            self.transport.write(_raw(refusal.response()))
            self._close()
            if self._busy:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

    def _close(self) -> None:
        self.transport.close()
        self._gate.settle(self)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, or the refusal of a request for which there was no room."""
        if self.crowded:
            self._gate.cut("crowded")
            detail = f"All {self._bounds.connections} connections of the service are in use."
            refusal = _Refusal("crowded", 503, detail, "Try again in a moment.")
            return await refusal.response()(scope, receive, send)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._streams_events = (b"content-type", b"text/event-stream") in {
                    (name.lower(), value.partition(b";")[0]) for name, value in message.get("headers", ())
                }
            await send(message)

        await self._inner(scope, receive, watched)
        return None


def _raw(response: Response) -> bytes:
    head = b"".join(b"%s: %s\r\n" % line for line in response.raw_headers)
    return STATUS_LINE[response.status_code] + head + b"\r\n" + bytes(response.body)
