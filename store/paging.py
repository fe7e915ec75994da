"""Opaque page tokens: a position in (created_at, id), newest first, bound to the query that it was issued for."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sqlalchemy import tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ColumnElement

from distillery.errors import InvalidPageToken, InvalidRequest

MAX_PAGE_SIZE = 200
_LONGEST_TOKEN = 1000


@dataclass(frozen=True)
class Position:
    """The last row of the page before."""

    created_at: float
    id: str


def check_size(page_size: int) -> None:
    """Refuse a page size outside 1 to 200.

    Raises:
        InvalidRequest: it is outside.
    """
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidRequest(
            f"A page of {page_size} is not possible.",
            hint=f"'page_size' lies between 1 and {MAX_PAGE_SIZE}.",
            pointer="/page_size",
        )


def encode(position: Position, *, query: Mapping[str, Any]) -> str:
    """The token of what follows `position` in the answer to `query`."""
    packed = json.dumps([position.created_at, position.id, _digest(position, query)], separators=(",", ":"))
    return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def decode(token: str, *, query: Mapping[str, Any]) -> Position:
    """The position in a token.

    The digest is no secret: it catches mistakes, and a forged token shows only what the query may show anyway.

    Raises:
        InvalidPageToken: the token is damaged, or was issued for another query.
    """
    try:
        padded = token[:_LONGEST_TOKEN] + "=" * (-len(token[:_LONGEST_TOKEN]) % 4)
        created_at, id_, digest = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        position = Position(float(created_at), str(id_))
        fits = isfinite(position.created_at) and hmac.compare_digest(str(digest), _digest(position, query))
    except (ValueError, TypeError, binascii.Error, OverflowError, RecursionError):
        fits = False
    if not fits:
        raise InvalidPageToken(
            "This page token was not issued for this query.",
            hint="Pass 'next_page_token' of the page before, with the same filters; or begin again without one.",
            pointer="/page_token",
        )
    return position


def _digest(position: Position, query: Mapping[str, Any]) -> str:
    bound = [
        position.created_at,
        position.id,
        sorted((key, value) for key, value in query.items() if value is not None),
    ]
    return hashlib.sha256(json.dumps(bound, default=str).encode()).hexdigest()[:32]


def after(
    position: Position, created_at: InstrumentedAttribute[float], id_: InstrumentedAttribute[str]
) -> ColumnElement[bool]:
    """The condition on the rows that follow `position`, newest first."""
    return tuple_(created_at, id_) < tuple_(position.created_at, position.id)
