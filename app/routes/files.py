"""Checkpoints, artifacts and the report: lists and downloads."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from app.downloads import Presigning, Stored, deliver
from app.errors import documented
from app.negotiate import preferred
from app.parameters import ArtifactName, CheckpointId, JobId
from app.service import Served
from distillery.errors import NotFound
from distillery.report import Report
from distillery.views import TERMINAL, Artifact, Checkpoint, Page
from store import files, jobs

router = APIRouter(tags=["files"])
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    name: {"required": True, "schema": {"type": "string"}, "description": description}
    for name, description in {
        "ETag": "`sha256-` and the digest of the whole file.",
        "Repr-Digest": "The same digest, as RFC 9530 writes it.",
        "Accept-Ranges": "`bytes`.",
    }.items()
}
DOWNLOAD = documented(404, 416) | {
    200: {"description": "The file.", "content": _BYTES, "headers": _HEADERS},
    206: {"description": "The range asked for.", "content": _BYTES, "headers": _HEADERS},
    304: {"description": "What `If-None-Match` names is still current."},
    307: {
        "description": "The file lies at `Location` for a while; only where the service is set up to send clients to "
        "its S3 store.",
        "headers": {
            name: {"required": True, "schema": {"type": "string"}, "description": description}
            for name, description in {
                "Location": "A presigned address. It needs no key of ours, and should be sent none.",
                "ETag": "`sha256-` and the digest of the whole file.",
                "Repr-Digest": "The same digest, to verify what comes from there.",
            }.items()
        },
    },
}
_REPORT = documented(404, 416) | {
    200: {"description": "The report.", "content": {"text/html": {"schema": {"type": "string"}}}},
    206: {"description": "The range asked for.", "content": _BYTES, "headers": _HEADERS},
    304: {"description": "What `If-None-Match` names is still current."},
}


@router.get("/v1/jobs/{job_id}/checkpoints", responses=documented(404))
def list_checkpoints(job_id: JobId, served: Served) -> Page[Checkpoint]:
    """List the checkpoints of a job that are kept, the newest first."""
    with served.database.read() as session:
        jobs.find(session, job_id)
        return Page(data=tuple(files.checkpoints(session, job_id)))


@router.head("/v1/jobs/{job_id}/checkpoints/{checkpoint_id}/content", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/checkpoints/{checkpoint_id}/content", response_class=Response, responses=DOWNLOAD)
def download_checkpoint(job_id: JobId, checkpoint_id: CheckpointId, served: Served, request: Request) -> Response:
    """Download a checkpoint; `Range` and `If-Range` resume."""
    with served.database.read() as session:
        view = files.checkpoint(session, job_id, checkpoint_id)
        key = files.checkpoint_key(session, job_id, checkpoint_id)
    stored = Stored(key, f"{view.id}.ckpt", "application/octet-stream", view.size_bytes, view.sha256)
    return deliver(request, stored, served.artifacts, presigning=_presigning(request))


@router.get("/v1/jobs/{job_id}/artifacts", responses=documented(404))
def list_artifacts(job_id: JobId, served: Served) -> Page[Artifact]:
    """List what a job has delivered."""
    with served.database.read() as session:
        jobs.find(session, job_id)
        return Page(data=tuple(files.artifacts(session, job_id)))


@router.head("/v1/jobs/{job_id}/artifacts/{name}", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/artifacts/{name}", response_class=Response, responses=DOWNLOAD)
def download_artifact(job_id: JobId, name: ArtifactName, served: Served, request: Request) -> Response:
    """Download an artifact; `Range` and `If-Range` resume."""
    return deliver(request, _artifact(served, job_id, name), served.artifacts, presigning=_presigning(request))


@router.head("/v1/jobs/{job_id}/report", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/report", response_model=Report, responses=_REPORT)
def get_report(
    job_id: JobId,
    served: Served,
    request: Request,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Show the distillation report: as JSON, or as one self-contained page."""
    kind = preferred(accept, offered=("application/json", "text/html"))
    name = "report.html" if kind == "text/html" else "report.json"
    try:
        stored = _artifact(served, job_id, name)
    except NotFound:
        raise _no_report(served, job_id) from None
    answer = deliver(request, stored, served.artifacts, inline=True)
    answer.headers["Vary"] = "Accept"
    return answer


def _presigning(request: Request) -> Presigning:
    presigning: Presigning = request.app.state.presigning
    return presigning


def _artifact(served: Served, job_id: str, name: str) -> Stored:
    with served.database.read() as session:
        view = files.artifact(session, job_id, name)
        key = files.artifact_key(session, job_id, name)
    return Stored(key, view.name, view.media_type, view.size_bytes, view.sha256)


def _no_report(served: Served, job_id: str) -> NotFound:
    with served.database.read() as session:
        status = jobs.find(session, job_id).status
    hint = "It will never have one." if status in TERMINAL else "It is written at the end of the job."
    return NotFound(f"The job {job_id} is {status} and has no report.", hint=hint)
