"""The endpoints that are told what becomes of jobs: register, list, enable, change their key, remove."""

import base64
import secrets
from collections.abc import Collection, Sequence
from typing import cast

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.ids import new_id
from distillery.views import Page
from distillery.webhooks import NewWebhook, Scope, Webhook, WebhookWithSecret
from store import paging
from store.addresses import parse_target
from store.config import Network
from store.present import moment
from store.tables import WebhookRow, now_seconds

ROTATION_SECONDS = 24 * 3600.0
"""For so long after a change of keys the old one signs too."""
MOST_WEBHOOKS = 100
"""Each of them costs a row or two at every change of every job."""
_SECRET_BYTES = 32


def register(session: Session, sent: NewWebhook, *, networks: Sequence[Network] = ()) -> WebhookWithSecret:
    """Add an endpoint; the answer holds its secret, which is shown here and never again.

    Raises:
        InvalidWebhook: nothing may be sent to its address.
        WrongState: that address is registered already, or there are too many endpoints.
    """
    parse_target(sent.url, networks=networks)
    twin = session.scalar(select(WebhookRow.id).where(WebhookRow.url == sent.url))
    if twin is not None:
        hint = f"Remove {twin} first, or use another path. A lost secret is replaced with :rotate."
        raise WrongState(f"This URL is registered already, as {twin}.", hint=hint)
    if session.scalars(select(func.count()).select_from(WebhookRow)).one() >= MOST_WEBHOOKS:
        raise WrongState(f"There are {MOST_WEBHOOKS} webhooks, and no more are kept.", hint="Remove one.")
    statement = insert(WebhookRow).values(
        id=new_id("whk"), url=sent.url, scope=sent.scope, types=list(sent.types), secret=new_secret(),
        created_at=now_seconds(),
    )  # fmt: skip
    row = session.scalars(statement.returning(WebhookRow)).one()
    return _with_secret(row)


def new_secret() -> str:
    """A key in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def get(session: Session, webhook_id: str) -> Webhook:
    """The endpoint.

    Raises:
        NotFound: there is no such endpoint.
    """
    return shown(find(session, webhook_id))


def find(session: Session, webhook_id: str, *, locked: bool = False) -> WebhookRow:
    """The row of an endpoint; `locked`, it stays as it is until the transaction ends.

    Raises:
        NotFound: there is none.
    """
    row = None if "\x00" in webhook_id else look_up(session, webhook_id, locked=locked)
    if row is None:
        raise NotFound(f"There is no webhook '{webhook_id[:60]}'.", hint="GET /v1/webhooks lists them.")
    return row


def look_up(session: Session, webhook_id: str, *, locked: bool) -> WebhookRow | None:
    """The row of an endpoint, if there is one."""
    statement = select(WebhookRow).where(WebhookRow.id == webhook_id).execution_options(populate_existing=True)
    # Not against those who only need the row to stay: the events of jobs do, and must never wait for a receiver.
    return session.scalar(statement.with_for_update(key_share=True) if locked else statement)


def page(session: Session, *, page_size: int = 50, token: str | None = None) -> Page[Webhook]:
    """One page of the endpoints, newest first.

    Raises:
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200.
    """
    paging.check_size(page_size)
    query = {"list": "webhooks"}
    statement = select(WebhookRow).order_by(WebhookRow.created_at.desc(), WebhookRow.id.desc()).limit(page_size + 1)
    if token:
        position = paging.decode(token, query=query)
        statement = statement.where(paging.after(position, WebhookRow.created_at, WebhookRow.id))
    rows = session.scalars(statement).all()
    last = paging.Position(rows[page_size - 1].created_at, rows[page_size - 1].id) if len(rows) > page_size else None
    following = paging.encode(last, query=query) if last else None
    return Page[Webhook](data=tuple(shown(row) for row in rows[:page_size]), next_page_token=following)


def remove(session: Session, webhook_id: str) -> Webhook:
    """Take an endpoint away with all its messages, sent or not; it as it was.

    Raises:
        NotFound: there is no such endpoint.
    """
    webhook = get(session, webhook_id)
    session.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))
    return webhook


def enable(session: Session, webhook_id: str) -> Webhook:
    """Tell the endpoint of what happens from now on. What it missed may be redelivered.

    Raises:
        NotFound: there is no such endpoint.
    """
    row = find(session, webhook_id, locked=True)
    row.disabled_reason = None
    return shown(row)


def rotate(session: Session, webhook_id: str) -> WebhookWithSecret:
    """Give the endpoint a new secret, shown here and never again; the old one signs too for 24 hours.

    Raises:
        NotFound: there is no such endpoint.
    """
    row = find(session, webhook_id, locked=True)
    row.previous_secret, row.secret = row.secret, new_secret()
    row.previous_until = session.scalars(select(now_seconds())).one() + ROTATION_SECONDS
    return _with_secret(row)


def unfit(session: Session, urls: Collection[str]) -> dict[str, str]:
    """Those of the URLs that no enabled endpoint has, each with how to mend that."""
    if not urls:
        return {}
    statement = select(WebhookRow.url, WebhookRow.id, WebhookRow.disabled_reason).where(WebhookRow.url.in_(urls))
    found = {url: (id_, reason) for url, id_, reason in session.execute(statement)}
    hints = {url: f"Enable it again with POST /v1/webhooks/{id_}:enable." for url, (id_, why) in found.items() if why}
    register_it = "Register it with POST /v1/webhooks, or `distillery webhooks add URL`."
    return hints | {url: register_it for url in urls if url not in found}


def shown(row: WebhookRow) -> Webhook:
    """An endpoint without its secret."""
    return Webhook(
        id=row.id,
        url=row.url,
        scope=cast(Scope, row.scope),
        types=tuple(row.types),
        enabled=row.disabled_reason is None,
        disabled_reason=row.disabled_reason,
        previous_secret_until=None if row.previous_until is None else moment(row.previous_until),
        created_at=moment(row.created_at),
    )


def _with_secret(row: WebhookRow) -> WebhookWithSecret:
    return WebhookWithSecret(**shown(row).model_dump(), secret=row.secret)
