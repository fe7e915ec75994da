"""Data sets: made of uploads or of what the workers see, looked at, and named by jobs."""

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Request, Response

from app import hints
from app.downloads import Stored, deliver
from app.errors import Responses, documented
from app.idempotency import IdempotencyKey, created, once
from app.negotiate import preferred
from app.parameters import DatasetId, PageSize, PageToken, SentDataset
from app.service import Served
from app.waiting import changed
from distillery.errors import NotFound
from distillery.views import Dataset, Page
from store import datasets, files, removal
from store.idempotency import Answer
from store.work import DEFAULT_QUEUE

router = APIRouter(tags=["data sets"])
_ACCEPTED: Responses = {202: created("Queued.")}
WaitSeconds = Annotated[int, Query(ge=0, le=60, description="Seconds to wait for the status to change.")]
_PICTURE = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_PREVIEW = documented(404, 416) | {
    200: {"description": "The preview.", "content": _PICTURE},
    206: {"description": "The range asked for.", "content": _PICTURE},
    304: {"description": "What `If-None-Match` names is still current."},
}


@router.post(
    "/v1/datasets",
    status_code=202,
    response_model=Dataset,
    responses=documented(400, 404, 408, 409, 413, 415, 507) | _ACCEPTED,
)
def add_dataset(
    asked: SentDataset,
    served: Served,
    request: Request,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have a worker read, check and pack a data set. It can be used once its status is `succeeded`."""

    def act(session: Any) -> Answer:
        dataset = datasets.request(session, asked)
        background.add_task(hints.send, served, dataset.id, queue=DEFAULT_QUEUE, log=request.app.state.log)
        return Answer(202, f"/v1/datasets/{dataset.id}", dataset.model_dump_json())

    return once(served, request, idempotency_key, act, asked=asked)


@router.get("/v1/datasets", responses=documented(400))
def list_datasets(served: Served, page_size: PageSize = 50, page_token: PageToken = None) -> Page[Dataset]:
    """List data sets, the newest first."""
    with served.database.read() as session:
        return datasets.page(session, page_size=page_size, token=page_token)


@router.get("/v1/datasets/{dataset_id}", responses=documented(404))
async def get_dataset(dataset_id: DatasetId, served: Served, request: Request, wait: WaitSeconds = 0) -> Dataset:
    """Show a data set: what was found in it, or how far its import is. Its id may stand as `dataset.id` of a job."""

    def read() -> Dataset:
        with served.database.read() as session:
            return datasets.get(session, dataset_id)

    return await changed(request, read, wait_seconds=wait)


@router.get("/v1/datasets/{dataset_id}/preview", response_class=Response, responses=_PREVIEW)
def preview_dataset(dataset_id: DatasetId, served: Served, request: Request) -> Response:
    """Show histograms and samples: as JSON, or as a contact sheet with `Accept: image/png`."""
    kind = preferred(request.headers.get("accept"), offered=("application/json", "image/png"))
    name = "preview.png" if kind == "image/png" else "preview.json"
    with served.database.read() as session:
        status = datasets.get(session, dataset_id).status
        try:
            view, key = files.artifact(session, dataset_id, name), files.artifact_key(session, dataset_id, name)
        except NotFound:
            raise NotFound(
                f"{dataset_id} ({status}) has no such preview.",
                hint="It is made at the end of the import; data sets of texts have no pictures.",
            ) from None
    answer = deliver(
        request, Stored(key, view.name, view.media_type, view.size_bytes, view.sha256), served.artifacts, inline=True
    )
    answer.headers["Vary"] = "Accept"
    return answer


@router.delete("/v1/datasets/{dataset_id}", status_code=204, response_class=Response, responses=documented(404, 409))
def delete_dataset(dataset_id: DatasetId, served: Served) -> Response:
    """Forget a data set, unless a job that has not ended needs it."""
    with served.database.transaction() as session:
        removal.delete_dataset(session, dataset_id)
    return Response(status_code=204)
