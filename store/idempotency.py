"""Requests that may be sent twice: the first answer is kept for a day under the key that the client chose."""

from dataclasses import dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from distillery.errors import KeyReused
from store.tables import IdempotencyRow, now_seconds

KEPT_SECONDS = 86_400.0


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    location: str
    body: str


class Taken(Exception):
    """Another request with this key was committed first: roll back, and recall its answer."""


def recall(session: Session, key: str, *, request_sha256: str) -> Answer | None:
    """The answer that this request was given before; None when the key is new, or older than a day.

    Raises:
        KeyReused: the key was used for another request.
    """
    fresh = IdempotencyRow.created_at > now_seconds() - KEPT_SECONDS
    row = session.scalar(select(IdempotencyRow).where(IdempotencyRow.key == key, fresh))
    if row is None:
        return None
    if row.request_sha256 != request_sha256:
        raise KeyReused(
            f"The Idempotency-Key '{key[:60]}' was used for another request.",
            hint="Use a new key for each request, and the same one only to send the same request again.",
        )
    return Answer(row.status, row.location, row.body)


def remember(session: Session, key: str, *, request_sha256: str, answer: Answer) -> None:
    """Keep the answer, in the transaction of what the request did.

    While another request with the same key is being answered this waits for its end.

    Raises:
        Taken: that request was committed, so this one must not be.
    """
    session.execute(
        delete(IdempotencyRow).where(
            IdempotencyRow.key == key, IdempotencyRow.created_at <= now_seconds() - KEPT_SECONDS
        )
    )
    statement = insert(IdempotencyRow).values(
        key=key,
        request_sha256=request_sha256,
        status=answer.status,
        location=answer.location,
        body=answer.body,
        created_at=now_seconds(),
    )
    try:
        session.execute(statement)
    except IntegrityError:
        raise Taken from None


def sweep(session: Session) -> int:
    """Forget keys that are older than a day; how many there were."""
    old = IdempotencyRow.created_at <= now_seconds() - KEPT_SECONDS
    return len(session.scalars(delete(IdempotencyRow).where(old).returning(IdempotencyRow.key)).all())
