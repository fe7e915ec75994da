"""The wire types of webhooks: endpoints that are told what becomes of jobs, and every try to tell them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from distillery.spec.frozen import Frozen
from distillery.views import View

WebhookType = Literal[
    "queued", "started", "resolved", "edited", "pause_requested", "paused", "resumed", "cancel_requested", "requeued",
    "webhook_disabled", "succeeded", "failed", "crashed", "cancelled",
]  # fmt: skip
"""The events that an endpoint may be told of: those that happen a few times in a job."""
DEFAULT_TYPES: tuple[WebhookType, ...] = (
    "started", "paused", "resumed", "requeued", "succeeded", "failed", "crashed", "cancelled",
)  # fmt: skip
_TOO_OFTEN = ("phase", "checkpoint", "artifact", "warning")
MAX_URL_CHARACTERS = 2048
Scope = Literal["all", "named"]
DeliveryStatus = Literal["waiting", "delivered", "failed"]


def _seldom(value: Any) -> Any:
    if value in _TOO_OFTEN:
        raise ValueError(f"'{value}' happens too often for webhooks. Follow GET /v1/jobs/{{id}}/events instead.")
    return value


def _once_each(types: Sequence[WebhookType]) -> tuple[WebhookType, ...]:
    return tuple(dict.fromkeys(types))


class NewWebhook(Frozen):
    """An endpoint to be told what becomes of jobs."""

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)]
    """Where messages are sent: https, port 443 or 8443, a public address."""
    types: Annotated[
        tuple[Annotated[WebhookType, BeforeValidator(_seldom)], ...],
        Field(min_length=1, max_length=50),
        AfterValidator(_once_each),
    ] = DEFAULT_TYPES
    """The events it is told of; without this, when a job starts, ends, pauses, or goes on."""
    scope: Scope = "all"
    """`all` jobs, or only those that are `named`: whose spec has this URL in `notify`."""


class Webhook(View):
    """An endpoint that is told what becomes of jobs."""

    id: str
    url: str
    scope: Scope
    types: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None = None
    previous_secret_until: datetime | None = None
    """Until then messages are signed with the secret before the present one too."""
    created_at: datetime


class WebhookWithSecret(Webhook):
    """An endpoint with its secret, which is shown only once."""

    secret: Annotated[str, Field(repr=False)]
    """The key that messages are signed with, as every Standard Webhooks library takes it."""


class Try(View):
    """One try to bring a message to its endpoint."""

    at: datetime
    seconds: float
    status_code: int | None = None
    """Of the answer; null when there was none."""
    error: str | None = None
    """Why it did not arrive."""


class Delivery(View):
    """One message to one endpoint, and every try to bring it there."""

    id: str
    """Stands in the header `webhook-id`, the same on each try."""
    webhook_id: str
    type: str
    """Such as `job.succeeded`; a test is a `ping`."""
    job_id: str | None = None
    seq: int = 0
    """Of the job's event that it tells of."""
    status: DeliveryStatus
    tries: tuple[Try, ...] = ()
    created_at: datetime
    ended_at: datetime | None = None
