"""One value for each request about what a user brings along: uploads, data sets, models, trials of jobs."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from distillery import answers
from distillery.calls import Call, as_json, fresh_key, page_parameters, segment
from distillery.spec import JobSpec
from distillery.spec.imports import DatasetImport, ModelImport, UploadSpec
from distillery.views import Dataset, Model, Page, Preflight, Upload, Validation

_JSON = {"Content-Type": "application/json"}


def begin_upload(spec: UploadSpec) -> Call[Upload]:
    """Announce a file. Repeatable: the same bytes are the same upload."""
    return Call("POST", "/v1/uploads", answers.reader(Upload), body=spec.model_dump_json().encode(), headers=_JSON)


def send_part(upload_id: str, *, number: int, content: bytes) -> Call[Upload]:
    """Send one part, with its digest."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"Content-Type": "application/octet-stream", "Content-Digest": f"sha-256=:{digest}:"}
    path = f"/v1/uploads/{segment(upload_id)}/parts/{number}"
    return Call("PUT", path, answers.reader(Upload), body=content, headers=headers)


def add_dataset(asked: DatasetImport | Mapping[str, Any]) -> Call[Dataset]:
    """Ask for a data set: one, however often this is sent."""
    return Call("POST", "/v1/datasets", answers.reader(Dataset), body=as_json(asked), headers=_JSON | fresh_key())


def dataset(dataset_id: str, *, wait_seconds: int = 0) -> Call[Dataset]:
    """Read a data set; with `wait_seconds` the answer is held until its status changes."""
    path = f"/v1/datasets/{segment(dataset_id)}"
    return Call("GET", path, answers.reader(Dataset), _wait(wait_seconds), held_seconds=wait_seconds)


def datasets(*, page_size: int, token: str | None) -> Call[Page[Dataset]]:
    """Read one page of the data sets."""
    return Call("GET", "/v1/datasets", answers.reader(Page[Dataset]), page_parameters(page_size, token))


def preview(dataset_id: str, *, media_type: str) -> Call[bytes]:
    """Read the preview of a data set: `application/json` or `image/png`."""
    path = f"/v1/datasets/{segment(dataset_id)}/preview"
    return Call("GET", path, answers.content, headers={"Accept": media_type})


def delete_dataset(dataset_id: str) -> Call[None]:
    """Forget a data set. Not repeatable: the second request would find none."""
    return Call("DELETE", f"/v1/datasets/{segment(dataset_id)}", answers.nothing, repeatable=False)


def add_model(asked: ModelImport | Mapping[str, Any]) -> Call[Model]:
    """Ask for a model to be taken in: one, however often this is sent."""
    return Call("POST", "/v1/models", answers.reader(Model), body=as_json(asked), headers=_JSON | fresh_key())


def model(model_id: str, *, wait_seconds: int = 0) -> Call[Model]:
    """Read a model; with `wait_seconds` the answer is held until its status changes."""
    path = f"/v1/models/{segment(model_id)}"
    return Call("GET", path, answers.reader(Model), _wait(wait_seconds), held_seconds=wait_seconds)


def rehearse(spec: JobSpec | Mapping[str, Any], *, wait_seconds: int) -> Call[Validation]:
    """Check a spec, and have a worker try it out. Not repeatable: each request is a trial of its own."""
    return Call(
        "POST", "/v1/jobs:validate", answers.reader(Validation), _wait(wait_seconds), body=as_json(spec),
        headers=_JSON, repeatable=False, held_seconds=wait_seconds,
    )  # fmt: skip


def preflight(preflight_id: str, *, wait_seconds: int) -> Call[Preflight]:
    """Read a trial; with `wait_seconds` the answer is held until it has ended."""
    path = f"/v1/preflights/{segment(preflight_id)}"
    return Call("GET", path, answers.reader(Preflight), _wait(wait_seconds), held_seconds=wait_seconds)


def _wait(seconds: int) -> dict[str, str]:
    return {"wait": str(seconds)} if seconds else {}
