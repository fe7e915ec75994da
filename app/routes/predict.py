"""Predictions: what a student and its teacher, or a kept model, say of images."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from app.errors import documented
from app.parameters import JobId, ModelId
from app.predictions import Found, Predictions
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
from store.servable import Asked

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

    def find(session: Any) -> Asked:
        networks, note = servable.of_job(session, job_id, runtime=runtime)
        return Asked(job_id=job_id, networks=networks, note=note)

    options = {"top_k": top_k, "logits": logits}
    return await _predict(request, served, find, about=(job_id, runtime), options=options)


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

    def find(session: Any) -> Asked:
        return Asked(job_id=None, networks=(servable.of_model(session, model_id, runtime=runtime),))

    options = {"top_k": top_k, "logits": logits}
    return await _predict(request, served, find, about=(model_id, runtime), options=options)


async def _predict(
    request: Request,
    served: Served,
    find: Callable[[Any], Asked],
    *,
    about: tuple[str, str],
    options: dict[str, Any],
) -> Response:
    predictions: Predictions = request.app.state.predictions

    def look() -> Found:
        with served.database.read() as session:
            return Found(find(session), inference.living(session))

    try:
        answer = await predictions.answer(request, look, about=about, options=options)
    except ClientDisconnect:
        return Response(status_code=_GONE)  # nobody reads it, but the log does
    return Response(answer, media_type="application/json")
