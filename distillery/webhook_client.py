"""What either client can do about webhooks: `client.webhooks.add(url)` and so on.

The two classes are the same, method for method; they only carry out what stands in `webhook_calls`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, TypeVar

from distillery import webhook_calls as calls
from distillery.calls import Call
from distillery.connection import PAGE_SIZE
from distillery.webhooks import Delivery, Webhook, WebhookWithSecret

T = TypeVar("T")


class Calling(Protocol):
    """Makes one request and gives its answer."""

    def __call__(self, call: Call[T], /) -> T: ...


class AsyncCalling(Protocol):
    """The same for programs with an event loop."""

    async def __call__(self, call: Call[T], /) -> T: ...


class Webhooks:
    """The endpoints that the service tells what becomes of jobs."""

    def __init__(self, call: Calling) -> None:
        self._call = call

    def add(self, url: str, *, types: Sequence[str] | None = None, scope: str = "all") -> WebhookWithSecret:
        """Register an endpoint; the answer holds its secret, which is not shown again.

        `types` are the events it is told of (without them, when a job starts, ends, pauses or goes on). With the scope
        `named` it hears only of jobs whose spec has the URL in `notify`.
        """
        return self._call(calls.add(url, types=types, scope=scope))

    def list(self) -> Iterator[Webhook]:
        """Every endpoint, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._call(calls.page(page_size=PAGE_SIZE, token=token))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def get(self, webhook_id: str) -> Webhook:
        """One endpoint."""
        return self._call(calls.get(webhook_id))

    def remove(self, webhook_id: str) -> Webhook:
        """Remove an endpoint with all its messages; it as it was."""
        return self._call(calls.remove(webhook_id))

    def enable(self, webhook_id: str) -> Webhook:
        """Tell an endpoint again that was disabled because it could not be reached."""
        return self._call(calls.enable(webhook_id))

    def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Give an endpoint a new secret; for 24 hours messages are signed with the old one too."""
        return self._call(calls.rotate(webhook_id))

    def test(self, webhook_id: str) -> Delivery:
        """Send an endpoint a ping, once; what became of it stands in its deliveries."""
        return self._call(calls.ping(webhook_id))

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """Every message to an endpoint with every try, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._call(calls.deliveries(webhook_id, page_size=PAGE_SIZE, token=token))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again, now, with the same id."""
        return self._call(calls.redeliver(webhook_id, delivery_id))


class AsyncWebhooks:
    """The endpoints that the service tells what becomes of jobs."""

    def __init__(self, call: AsyncCalling) -> None:
        self._call = call

    async def add(self, url: str, *, types: Sequence[str] | None = None, scope: str = "all") -> WebhookWithSecret:
        """Register an endpoint; the answer holds its secret, which is not shown again.

        `types` are the events it is told of (without them, when a job starts, ends, pauses or goes on). With the scope
        `named` it hears only of jobs whose spec has the URL in `notify`.
        """
        return await self._call(calls.add(url, types=types, scope=scope))

    async def list(self) -> AsyncIterator[Webhook]:
        """Every endpoint, newest first, page by page."""
        token: str | None = None
        while True:
            page = await self._call(calls.page(page_size=PAGE_SIZE, token=token))
            for row in page.data:
                yield row
            if (token := page.next_page_token) is None:
                return

    async def get(self, webhook_id: str) -> Webhook:
        """One endpoint."""
        return await self._call(calls.get(webhook_id))

    async def remove(self, webhook_id: str) -> Webhook:
        """Remove an endpoint with all its messages; it as it was."""
        return await self._call(calls.remove(webhook_id))

    async def enable(self, webhook_id: str) -> Webhook:
        """Tell an endpoint again that was disabled because it could not be reached."""
        return await self._call(calls.enable(webhook_id))

    async def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Give an endpoint a new secret; for 24 hours messages are signed with the old one too."""
        return await self._call(calls.rotate(webhook_id))

    async def test(self, webhook_id: str) -> Delivery:
        """Send an endpoint a ping, once; what became of it stands in its deliveries."""
        return await self._call(calls.ping(webhook_id))

    async def deliveries(self, webhook_id: str) -> AsyncIterator[Delivery]:
        """Every message to an endpoint with every try, newest first, page by page."""
        token: str | None = None
        while True:
            page = await self._call(calls.deliveries(webhook_id, page_size=PAGE_SIZE, token=token))
            for row in page.data:
                yield row
            if (token := page.next_page_token) is None:
                return

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again, now, with the same id."""
        return await self._call(calls.redeliver(webhook_id, delivery_id))
