"""What webhooks are told of an event: written in the event's own transaction, so that neither is without the other."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from distillery.ids import new_id
from distillery.webhooks import WebhookType
from store import outbox
from store.tables import DeliveryRow, JobRow, WebhookRow, now_seconds

TYPES: frozenset[str] = frozenset(get_args(WebhookType))
_LONGEST_MESSAGE = 1000
"""A message is a word that something happened; the job itself is at its own address."""

# Whoever deletes an endpoint waits until its message is written, or the message would have none to go to.
_ENABLED = (
    select(WebhookRow)
    .where(WebhookRow.disabled_reason.is_(None))
    .order_by(WebhookRow.id)
    .with_for_update(read=True, key_share=True)
)


def announce(session: Session, row: JobRow, type: str, *, message: str, at: float) -> None:  # noqa: A002
    """Write a message for each enabled endpoint that is to hear of this event of this job, at `at` seconds."""
    if type not in TYPES or row.kind != "distillation":
        return
    endpoints = session.scalars(_ENABLED).all()
    if not endpoints:
        return
    named = {each["url"] for each in row.sent.get("notify", ())}
    told = [each.id for each in endpoints if type in each.types and (each.scope == "all" or each.url in named)]
    if not told:
        return
    data = {
        "job_id": row.id, "seq": row.last_seq, "status": row.status, "name": row.name, "attempt": row.attempt,
        "message": message[:_LONGEST_MESSAGE], "url": f"/v1/jobs/{row.id}",
    }  # fmt: skip
    for webhook_id in told:
        write(session, webhook_id, type=f"job.{type}", data=data, at=at, job_id=row.id, seq=row.last_seq)


def write(
    session: Session,
    webhook_id: str,
    *,
    type: str,  # noqa: A002 - the name of the field
    data: dict[str, Any],
    at: float,
    job_id: str | None = None,
    seq: int = 0,
) -> str:
    """Write one message and have it sent; its id. Its body is signed and sent exactly as it is stored."""
    timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = {"type": type, "timestamp": timestamp, "data": data}
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    delivery_id = new_id("msg")
    values = {"webhook_id": webhook_id, "job_id": job_id, "seq": seq, "type": type, "body": body, "status": "waiting"}
    session.execute(insert(DeliveryRow).values(id=delivery_id, **values, tries=[], created_at=now_seconds()))
    outbox.deliver(session, delivery_id, webhook_id=webhook_id)
    return delivery_id
