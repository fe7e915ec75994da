"""Webhooks: endpoints that are told what becomes of jobs, and every try to tell them."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import ValidationError, WrapValidator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from app.errors import Responses, documented
from app.parameters import DeliveryId, PageSize, PageToken, WebhookId
from app.service import Served
from distillery.errors import InvalidWebhook
from distillery.spec.problems import field_problems
from distillery.views import Page
from distillery.webhooks import Delivery, NewWebhook, Webhook, WebhookWithSecret
from store import deliveries, webhooks

router = APIRouter(tags=["webhooks"])
_CREATED: Responses = {
    201: {"description": "Registered.", "headers": {"Location": {"required": True, "schema": {"type": "string"}}}}
}
_VERB = documented(400, 404, 408, 413, 415)
"""What a request that changes one endpoint may be refused with."""


def _told(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        raise InvalidWebhook(field_problems(error, value)) from None


SentWebhook = Annotated[NewWebhook, WrapValidator(_told), Body(description="Whom to tell, and of what.")]


@router.post("/v1/webhooks", status_code=201, responses=documented(400, 408, 409, 413, 415, 507) | _CREATED)
def add_webhook(sent: SentWebhook, served: Served, response: Response) -> WebhookWithSecret:
    """Register an endpoint. The answer holds the secret that its messages are signed with, which is not shown again."""
    with served.database.transaction() as session:
        webhook = webhooks.register(session, sent, networks=served.webhooks.networks)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    response.headers["Cache-Control"] = "no-store"
    return webhook


@router.get("/v1/webhooks", responses=documented(400))
def list_webhooks(served: Served, page_size: PageSize = 50, page_token: PageToken = None) -> Page[Webhook]:
    """List the endpoints, the newest first."""
    with served.database.read() as session:
        return webhooks.page(session, page_size=page_size, token=page_token)


@router.get("/v1/webhooks/{webhook_id}", responses=documented(404))
def get_webhook(webhook_id: WebhookId, served: Served) -> Webhook:
    """Show an endpoint."""
    with served.database.read() as session:
        return webhooks.get(session, webhook_id)


@router.delete("/v1/webhooks/{webhook_id}", responses=_VERB)
def remove_webhook(webhook_id: WebhookId, served: Served) -> Webhook:
    """Remove an endpoint with all its messages; the answer is the endpoint as it was."""
    with served.database.transaction() as session:
        return webhooks.remove(session, webhook_id)


@router.post("/v1/webhooks/{webhook_id}:enable", responses=_VERB)
def enable_webhook(webhook_id: WebhookId, served: Served) -> Webhook:
    """Tell an endpoint again that was disabled because it could not be reached. What it missed may be redelivered."""
    with served.database.transaction() as session:
        return webhooks.enable(session, webhook_id)


@router.post("/v1/webhooks/{webhook_id}:rotate", responses=_VERB)
def rotate_webhook(webhook_id: WebhookId, served: Served, response: Response) -> WebhookWithSecret:
    """Give an endpoint a new secret, shown only here. For 24 hours messages are signed with the old one too."""
    with served.database.transaction() as session:
        webhook = webhooks.rotate(session, webhook_id)
    response.headers["Cache-Control"] = "no-store"
    return webhook


@router.post("/v1/webhooks/{webhook_id}:test", responses=_VERB | documented(409))
def test_webhook(webhook_id: WebhookId, served: Served) -> Delivery:
    """Send an endpoint a `ping`, once. What became of it stands in the list of deliveries."""
    with served.database.transaction() as session:
        return deliveries.ping(session, webhook_id)


@router.get("/v1/webhooks/{webhook_id}/deliveries", responses=documented(400, 404))
def list_deliveries(
    webhook_id: WebhookId, served: Served, page_size: PageSize = 50, page_token: PageToken = None
) -> Page[Delivery]:
    """List the messages to an endpoint, the newest first, each with every try to bring it there."""
    with served.database.read() as session:
        return deliveries.page(session, webhook_id, page_size=page_size, token=page_token)


@router.post("/v1/webhooks/{webhook_id}/deliveries/{delivery_id}:redeliver", responses=_VERB | documented(409))
def redeliver(webhook_id: WebhookId, delivery_id: DeliveryId, served: Served) -> Delivery:
    """Send a message again, now, with the same id, whatever became of it before."""
    with served.database.transaction() as session:
        return deliveries.redeliver(session, webhook_id, delivery_id)
