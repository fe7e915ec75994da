"""Models: students and teachers of jobs, and networks that were trained elsewhere."""

from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request, Response

from app import hints
from app.errors import Responses, documented
from app.idempotency import IdempotencyKey, created, once
from app.intake import refuse_foreign
from app.parameters import ModelId, PageSize, PageToken, SentModel
from app.routes.datasets import WaitSeconds
from app.service import Served
from app.waiting import changed
from distillery.views import Model, Page
from store import models
from store.idempotency import Answer
from store.work import DEFAULT_QUEUE

router = APIRouter(tags=["models"])
_ACCEPTED: Responses = {202: created("Queued.")}


@router.post(
    "/v1/models",
    status_code=202,
    response_model=Model,
    responses=documented(400, 404, 408, 409, 413, 415, 507) | _ACCEPTED,
)
def add_model(
    asked: SentModel,
    served: Served,
    request: Request,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have a worker check a network, or a table of answers, and keep it. It can teach once it is `succeeded`."""
    refuse_foreign(asked, served)

    def act(session: Any) -> Answer:
        model = models.request(session, asked)
        background.add_task(hints.send, served, model.id, queue=DEFAULT_QUEUE, log=request.app.state.log)
        return Answer(202, f"/v1/models/{model.id}", model.model_dump_json())

    return once(served, request, idempotency_key, act, asked=asked)


@router.get("/v1/models", responses=documented(400))
def list_models(served: Served, page_size: PageSize = 50, page_token: PageToken = None) -> Page[Model]:
    """List models, the newest first."""
    with served.database.read() as session:
        return models.page(session, page_size=page_size, token=page_token)


@router.get("/v1/models/{model_id}", responses=documented(404))
async def get_model(model_id: ModelId, served: Served, request: Request, wait: WaitSeconds = 0) -> Model:
    """Show a model; its id may stand as `teacher.model` in a later job."""

    def read() -> Model:
        with served.database.read() as session:
            return models.get(session, model_id)

    return await changed(request, read, wait_seconds=wait)
