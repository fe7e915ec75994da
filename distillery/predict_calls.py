"""One value for each request for a prediction."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillery import answers
from distillery.calls import Call, as_json, segment
from distillery.errors import InvalidRequest
from distillery.predictions import MOST_IMAGES, TOP_K, JobPrediction, ModelPrediction, RuntimeChoice, Values

Image = bytes | Path
_HELD_SECONDS = 60.0
"""A network that nobody asked lately is loaded first."""
_JSON = {"Content-Type": "application/json"}


def predict_job(
    job_id: str,
    images: Sequence[Image],
    *,
    arrays: Any = None,
    values: Values | None = None,
    top_k: int = TOP_K,
    logits: bool = False,
    runtime: RuntimeChoice = "auto",
) -> Call[JobPrediction]:
    """Ask student and teacher. Repeatable: asking changes nothing."""
    return Call(
        "POST", f"/v1/jobs/{segment(job_id)}/predict", answers.reader(JobPrediction), {"runtime": runtime},
        body=_body(images, arrays, values, top_k=top_k, logits=logits), headers=_JSON, held_seconds=_HELD_SECONDS,
    )  # fmt: skip


def predict_model(
    model_id: str,
    images: Sequence[Image],
    *,
    arrays: Any = None,
    values: Values | None = None,
    top_k: int = TOP_K,
    logits: bool = False,
    runtime: RuntimeChoice = "auto",
) -> Call[ModelPrediction]:
    """Ask a kept model. Repeatable."""
    return Call(
        "POST", f"/v1/models/{segment(model_id)}/predict", answers.reader(ModelPrediction), {"runtime": runtime},
        body=_body(images, arrays, values, top_k=top_k, logits=logits), headers=_JSON, held_seconds=_HELD_SECONDS,
    )  # fmt: skip


def _body(images: Sequence[Image], arrays: Any, values: Values | None, *, top_k: int, logits: bool) -> bytes:
    if len(images) > MOST_IMAGES:
        raise InvalidRequest(f"There are {len(images)} images.", hint=f"Ask about at most {MOST_IMAGES} at a time.")
    asked: dict[str, Any] = {"images": [base64.b64encode(_content(each)).decode() for each in images]}
    if arrays is not None:
        # As numpy and torch have it; lists are sent as they are.
        nested = arrays.tolist() if hasattr(arrays, "tolist") else arrays
        asked = {"arrays": nested, "values": values} | (asked if images else {})
    return as_json({**asked, "top_k": top_k, "logits": logits})


def _content(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{image} cannot be read: {error.strerror}.", hint="Give the path of an image.") from None
