"""The requests about webhooks, for either client."""

import json
from collections.abc import Sequence
from urllib.parse import quote

from distillery import answers
from distillery.calls import Call
from distillery.views import Page
from distillery.webhooks import Delivery, Webhook, WebhookWithSecret

_ALL = "/v1/webhooks"


def add(url: str, *, types: Sequence[str] | None, scope: str) -> Call[WebhookWithSecret]:
    """Register an endpoint. Not repeatable: the second request would be told that the URL is registered already."""
    body = {"url": url, "scope": scope} | ({} if types is None else {"types": list(types)})
    headers = {"Content-Type": "application/json"}
    read = answers.reader(WebhookWithSecret)
    return Call("POST", _ALL, read, body=json.dumps(body).encode(), headers=headers, repeatable=False)


def page(*, page_size: int, token: str | None) -> Call[Page[Webhook]]:
    """Read one page of the endpoints."""
    return Call("GET", _ALL, answers.reader(Page[Webhook]), _page(page_size, token))


def get(webhook_id: str) -> Call[Webhook]:
    """Read one endpoint."""
    return Call("GET", _of(webhook_id), answers.reader(Webhook))


def remove(webhook_id: str) -> Call[Webhook]:
    """Remove an endpoint. Not repeatable: the second request would find none."""
    return Call("DELETE", _of(webhook_id), answers.reader(Webhook), repeatable=False)


def enable(webhook_id: str) -> Call[Webhook]:
    """Tell an endpoint again that was disabled."""
    return Call("POST", f"{_of(webhook_id)}:enable", answers.reader(Webhook))


def rotate(webhook_id: str) -> Call[WebhookWithSecret]:
    """Change the secret. Not repeatable: the receiver's one would be the last but one, and sign no more."""
    return Call("POST", f"{_of(webhook_id)}:rotate", answers.reader(WebhookWithSecret), repeatable=False)


def ping(webhook_id: str) -> Call[Delivery]:
    """Have a ping sent."""
    return Call("POST", f"{_of(webhook_id)}:test", answers.reader(Delivery), repeatable=False)


def deliveries(webhook_id: str, *, page_size: int, token: str | None) -> Call[Page[Delivery]]:
    """Read one page of the messages to an endpoint."""
    return Call("GET", f"{_of(webhook_id)}/deliveries", answers.reader(Page[Delivery]), _page(page_size, token))


def redeliver(webhook_id: str, delivery_id: str) -> Call[Delivery]:
    """Have a message sent again. Repeatable: receivers know it by its id."""
    path = f"{_of(webhook_id)}/deliveries/{quote(delivery_id, safe='')}:redeliver"
    return Call("POST", path, answers.reader(Delivery))


def _of(webhook_id: str) -> str:
    return f"{_ALL}/{quote(webhook_id, safe='')}"


def _page(page_size: int, token: str | None) -> dict[str, str]:
    return {"page_size": str(page_size)} | ({"page_token": token} if token else {})
