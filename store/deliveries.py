"""The messages to webhook endpoints: handed out to be sent, every try recorded, listed, sent again."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from sqlalchemy import delete, select, true, update
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.views import Page
from distillery.webhooks import Delivery, DeliveryStatus, Try
from store import outbox, paging, webhooks
from store.announcements import write
from store.outbox import OutboxRow
from store.present import moment
from store.tables import DeliveryRow, OutboxEntry, WebhookRow, now_seconds
from store.transitions import Happening, change

PING = "ping"
KEPT_SECONDS = 30 * 86_400.0
_JITTER = 0.1
_GONE = 410


@dataclass(frozen=True)
class Letter:
    """A message ready to be signed and sent."""

    id: str
    url: str
    body: str
    secrets: tuple[str, ...] = field(repr=False)
    """The present one, and the one before it for a day."""
    now: float
    """The database's clock, in seconds since 1970."""


@dataclass(frozen=True)
class Attempted:
    """What became of one try: the status of the answer, or why there was none."""

    seconds: float
    status_code: int | None = None
    error: str | None = None

    @property
    def arrived(self) -> bool:
        """Whether the receiver took the message."""
        return self.status_code is not None and 200 <= self.status_code < 300


def take(session: Session, *, limit: int, busy: Collection[str] = ()) -> list[OutboxRow]:
    """Up to `limit` messages that are due, none for an endpoint in `busy`; nobody else gets them for 30 s."""
    others = OutboxEntry.payload["webhook_id"].as_string().not_in(busy) if busy else None
    return outbox.due(session, kinds=["webhook"], limit=limit, where=others)


def letter(session: Session, delivery_id: str) -> Letter | None:
    """The message with all that is needed to send it; None when it is to be sent no more."""
    statement = (
        select(DeliveryRow, WebhookRow, now_seconds())
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .where(DeliveryRow.id == delivery_id, DeliveryRow.status == "waiting", WebhookRow.disabled_reason.is_(None))
    )
    found = session.execute(statement).one_or_none()
    if found is None:
        return None
    delivery, webhook, now = found
    keys = [webhook.secret]
    if webhook.previous_secret is not None and now < (webhook.previous_until or 0.0):
        keys.append(webhook.previous_secret)
    return Letter(id=delivery.id, url=webhook.url, body=delivery.body, secrets=tuple(keys), now=now)


def record_try(
    session: Session, entry: OutboxRow, tried: Attempted, *, schedule_seconds: Sequence[float], jitter: float = _JITTER
) -> None:
    """Write down a try, and what follows from it: delivered, tried again later, or failed and the endpoint disabled.

    `schedule_seconds` are the waits before the second, third, … try; each is lengthened by up to `jitter` of itself.
    """
    # The endpoint first, always: two that disable it would otherwise wait for each other's messages.
    webhook = webhooks.look_up(session, entry.payload["webhook_id"], locked=True)
    statement = select(DeliveryRow).where(DeliveryRow.id == entry.payload["delivery_id"]).with_for_update()
    delivery = session.scalar(statement)
    if webhook is None or delivery is None:
        outbox.done(session, entry.id)
        return
    at = session.scalars(select(now_seconds())).one() - tried.seconds
    facts = {"at": at, "seconds": tried.seconds, "status_code": tried.status_code, "error": tried.error}
    delivery.tries = [*delivery.tries, facts]
    made = len(delivery.tries) - entry.payload["tries_before"]
    if tried.arrived:
        _end(session, delivery, "delivered")
    elif delivery.status == "waiting":
        reason = _why_last(tried, made=made, allowed=1 if delivery.type == PING else len(schedule_seconds) + 1)
        if reason is None:
            wait = schedule_seconds[made - 1]
            outbox.retry(session, entry.id, seconds=wait * random.uniform(1, 1 + jitter))  # noqa: S311 - no secret
            return
        _end(session, delivery, "failed")
        if delivery.type != PING:
            _disable(session, webhook, reason=reason, job_id=delivery.job_id)
    outbox.done(session, entry.id)


def _why_last(tried: Attempted, *, made: int, allowed: int) -> str | None:
    if tried.status_code == _GONE:
        return "It answered 410 Gone."
    if made < allowed:
        return None
    return f"A message did not arrive in {made} tries. The last one: {tried.error}"


def _end(session: Session, delivery: DeliveryRow, status: DeliveryStatus) -> None:
    delivery.status = status
    delivery.ended_at = session.scalars(select(now_seconds())).one()


def _disable(session: Session, webhook: WebhookRow, *, reason: str, job_id: str | None) -> None:
    """Send nothing more to the endpoint, and say so on the job whose message was the last straw."""
    webhook.disabled_reason = reason
    session.flush()
    waiting = update(DeliveryRow).where(DeliveryRow.webhook_id == webhook.id, DeliveryRow.status == "waiting")
    session.execute(
        waiting.values(status="failed", ended_at=now_seconds()).execution_options(synchronize_session=False)
    )
    if job_id is not None:
        # The host alone: paths of webhooks are often secrets themselves.
        text = f"The webhook at {urlsplit(webhook.url).hostname} is told nothing more. {reason}"
        happening = Happening("webhook_disabled", text, {"webhook_id": webhook.id})
        change(session, job_id, guard=true(), values={}, happening=happening)


def ping(session: Session, webhook_id: str) -> Delivery:
    """Send the endpoint a message that means nothing, once: a failure has no consequences.

    Raises:
        NotFound: there is no such endpoint.
        WrongState: it is disabled.
    """
    _enabled(session, webhook_id)
    now = session.scalars(select(now_seconds())).one()
    delivery_id = write(session, webhook_id, type=PING, data={"webhook_id": webhook_id}, at=now)
    return _shown(_find(session, webhook_id, delivery_id))


def redeliver(session: Session, webhook_id: str, delivery_id: str) -> Delivery:
    """Send a message again, at once, with the same id and the whole schedule before it, whatever became of it.

    Raises:
        NotFound: there is no such message to that endpoint.
        WrongState: the endpoint is disabled.
    """
    _enabled(session, webhook_id)
    row = _find(session, webhook_id, delivery_id)
    row.status, row.ended_at = "waiting", None
    outbox.forget_delivery(session, delivery_id)
    outbox.deliver(session, delivery_id, webhook_id=webhook_id, tries_before=len(row.tries))
    return _shown(row)


def _enabled(session: Session, webhook_id: str) -> None:
    row = webhooks.find(session, webhook_id, locked=True)
    if row.disabled_reason is not None:
        hint = f"POST /v1/webhooks/{webhook_id}:enable first."
        raise WrongState(f"This webhook is disabled. {row.disabled_reason}", hint=hint)


def page(session: Session, webhook_id: str, *, page_size: int = 50, token: str | None = None) -> Page[Delivery]:
    """One page of the messages to an endpoint, newest first, each with its tries.

    Raises:
        NotFound: there is no such endpoint.
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200.
    """
    paging.check_size(page_size)
    webhooks.find(session, webhook_id)
    query = {"list": "deliveries", "webhook": webhook_id}
    newest = (DeliveryRow.created_at.desc(), DeliveryRow.id.desc())
    statement = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id).order_by(*newest).limit(page_size + 1)
    if token:
        position = paging.decode(token, query=query)
        statement = statement.where(paging.after(position, DeliveryRow.created_at, DeliveryRow.id))
    rows = session.scalars(statement).all()
    last = paging.Position(rows[page_size - 1].created_at, rows[page_size - 1].id) if len(rows) > page_size else None
    following = paging.encode(last, query=query) if last else None
    return Page[Delivery](data=tuple(_shown(row) for row in rows[:page_size]), next_page_token=following)


def _find(session: Session, webhook_id: str, delivery_id: str) -> DeliveryRow:
    statement = select(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.webhook_id == webhook_id)
    row = None if "\x00" in delivery_id else session.scalar(statement.with_for_update())
    if row is None:
        hint = f"GET /v1/webhooks/{webhook_id}/deliveries lists them."
        raise NotFound(f"There is no delivery '{delivery_id[:60]}' to {webhook_id}.", hint=hint)
    return row


def _shown(row: DeliveryRow) -> Delivery:
    return Delivery(
        id=row.id,
        webhook_id=row.webhook_id,
        type=row.type,
        job_id=row.job_id,
        seq=row.seq,
        status=cast(DeliveryStatus, row.status),
        tries=tuple(Try(**each | {"at": moment(each["at"])}) for each in row.tries),
        created_at=moment(row.created_at),
        ended_at=None if row.ended_at is None else moment(row.ended_at),
    )


def sweep(session: Session, *, limit: int = 10_000) -> int:
    """Forget messages that ended more than 30 days ago, at most so many; how many there were."""
    old = select(DeliveryRow.id).where(DeliveryRow.ended_at <= now_seconds() - KEPT_SECONDS).limit(limit)
    return len(session.scalars(delete(DeliveryRow).where(DeliveryRow.id.in_(old)).returning(DeliveryRow.id)).all())
