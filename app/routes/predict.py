"""Predictions: what a student and its teacher, or a kept model, say of images."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.errors import documented
from app.parameters import JobId, ModelId
from app.predictions import Predictions
from app.service import Served
from distillery.predictions import (
    IMAGE_TYPES,
    MOST_TOP,
    TOP_K,
    JobPrediction,
    ModelPrediction,
    PredictionInput,
    RuntimeChoice,
)
from store import inference, servable
from store.inference import InferenceWorker
from store.servable import Asked, Servable

router = APIRouter(tags=["predictions"])
_GONE = 499
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one image, or up to 64 images or arrays as JSON. At most 16 MiB.",
        "content": {
            "application/json": {"schema": PredictionInput.model_json_schema()},
            **dict.fromkeys(IMAGE_TYPES, _IMAGE),
        },
    }
}
_REFUSALS = documented(404, 408, 409, 413, 415, 507)
Top = Annotated[int, Query(ge=1, le=MOST_TOP, description="How many classes to tell of each image.")]
Logits = Annotated[bool, Query(description="Whether to tell all logits besides.")]
Runtime = Annotated[
    RuntimeChoice,
    Query(description="`auto` takes the ONNX export where there is one; `eager` runs the weights in PyTorch."),
]
Found = tuple[tuple[Servable, ...], str]


@router.post("/v1/jobs/{job_id}/predict", response_model=JobPrediction, openapi_extra=_BODY, responses=_REFUSALS)
async def predict_with_job(
    job_id: JobId,
    request: Request,
    served: Served,
    top_k: Top = TOP_K,
    logits: Logits = False,
    runtime: Runtime = "auto",
) -> Response:
    """Ask student and teacher the same: both answers, both times, and whether they agree."""

    def find(session: Any) -> Found:
        return servable.of_job(session, job_id, runtime=runtime)

    return await _predict(request, served, find, job_id=job_id, top_k=top_k, logits=logits)


@router.post("/v1/models/{model_id}/predict", response_model=ModelPrediction, openapi_extra=_BODY, responses=_REFUSALS)
async def predict_with_model(
    model_id: ModelId,
    request: Request,
    served: Served,
    top_k: Top = TOP_K,
    logits: Logits = False,
    runtime: Runtime = "auto",
) -> Response:
    """Ask a kept model."""

    def find(session: Any) -> Found:
        return (servable.of_model(session, model_id, runtime=runtime),), ""

    return await _predict(request, served, find, job_id=None, top_k=top_k, logits=logits)


async def _predict(
    request: Request,
    served: Served,
    find: Callable[[Any], Found],
    *,
    job_id: str | None,
    top_k: int,
    logits: bool,
) -> Response:
    predictions: Predictions = request.app.state.predictions

    def look(media_type: str) -> tuple[Asked, Sequence[InferenceWorker]]:
        with served.database.read() as session:
            networks, note = find(session)
            asked = Asked(
                job_id=job_id, networks=networks, note=note, media_type=media_type, top_k=top_k, logits=logits
            )
            return asked, inference.living(session)

    async def found(media_type: str) -> tuple[Asked, Sequence[InferenceWorker]]:
        return await run_in_threadpool(look, media_type)

    try:
        return Response(await predictions.answer(request, found), media_type="application/json")
    except ClientDisconnect:
        return Response(status_code=_GONE)  # nobody reads it, but the log does
