"""Follow a job's events over server-sent events, through broken connections, without a gap or a repeat."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from httpx_sse import ServerSentEvent, SSEError
from pydantic import ValidationError

from distillery import answers, calls
from distillery.errors import DistilleryError, ServiceRefused, Unavailable
from distillery.flows import RETRIED_STATUSES, Patience
from distillery.views import Event

SILENCE_SECONDS = 45.0
"""The service sends a comment every 15 s; after three missed ones the connection is taken for dead."""
BROKEN = (httpx.TransportError, SSEError)
"""What either client catches around one connection and hands to `Follower.pause`."""


@dataclass
class Follower:
    """Where one reader stands in the events of one job, over any number of connections."""

    job_id: str
    after: int
    server: str
    patience: Patience
    ended: bool = False
    _doubted: int | None = field(default=None, init=False)

    @property
    def path(self) -> str:
        """What to GET."""
        return calls.event_stream_path(self.job_id)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the next connection; they say from where to go on."""
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(self.after)}

    @property
    def params(self) -> dict[str, str]:
        """Query of the next connection, for whoever strips unknown headers on the way."""
        return {"after": str(self.after)}

    def refuse(self, response: httpx.Response) -> None:
        """Look at an answer that is no stream; its body has been read.

        Raises:
            ServiceRefused: trying again would not help.
            httpx.TransportError: it may.
        """
        refused = answers.refusal(response)
        if response.status_code not in RETRIED_STATUSES:
            raise refused
        raise httpx.RemoteProtocolError(refused.detail)

    def take(self, message: ServerSentEvent) -> Iterator[Event]:
        """The event in a message: none when it is a repeat, a comment or the end mark.

        Raises:
            httpx.RemoteProtocolError: events are missing before this one; connecting again brings them.
        """
        self.patience.reset()
        if message.event == "end":
            self.ended = True
            return
        if not message.data:
            return  # a comment, or word of how soon to come back: httpx-sse passes both on as messages
        event = _event(message, path=self.path)
        if event.seq <= self.after:
            return
        if event.seq > self.after + 1 and self._doubted != event.seq:
            self._doubted = event.seq  # a second time it is believed, rather than asked for without end
            raise httpx.RemoteProtocolError(f"event {self.after + 1} is missing before event {event.seq}")
        self.after = event.seq
        yield event

    def pause(self, failure: Exception | None) -> float:
        """Seconds until the next connection; a stream that stops without its end mark is a failure too.

        Raises:
            Unavailable: the service has been away for too long.
        """
        if isinstance(failure, httpx.TransportError):
            return self.patience.pause(answers.unreachable(failure, server=self.server))
        said = f" ({failure})" if failure else ""
        stopped: DistilleryError = Unavailable(
            f"The event stream of {self.job_id} stopped before its end{said}.", hint="Try again."
        )
        return self.patience.pause(stopped)


def _event(message: ServerSentEvent, *, path: str) -> Event:
    try:
        return Event.model_validate_json(message.data)
    except ValidationError as error:
        raise ServiceRefused(
            f"The stream {path} sent an event of type '{message.event}' that this client cannot read: "
            f"{error.errors(include_url=False)[0]['msg']}.",
            status=200,
            problem_code="UNEXPECTED_ANSWER",
            hint="Is the service newer than this client? Update the client.",
        ) from None
