"""Files sent in parts: announced, sent, and then named by data sets and models."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from app import parts
from app.errors import documented
from app.idempotency import CREATED, IdempotencyKey, once
from app.parameters import PartNumber, SentUpload, UploadId
from app.parts import Arrived
from app.service import Served, Service
from distillery.views import Upload
from store import uploads
from store.idempotency import Answer

router = APIRouter(tags=["uploads"])
_RAW: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the part.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "/v1/uploads", status_code=201, response_model=Upload, responses=documented(400, 408, 413, 415, 507) | CREATED
)
def begin_upload(
    spec: SentUpload, served: Served, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Announce a file. Send its parts then, in any order; those that came are kept for a day."""
    served.artifacts.require_room(spec.size_bytes)

    def act(session: Any) -> Answer:
        upload = uploads.begin(session, spec, quota_bytes=served.config.quota_bytes)
        return Answer(201, f"/v1/uploads/{upload.id}", upload.model_dump_json())

    return once(served, request, idempotency_key, act, asked=spec)


@router.get("/v1/uploads/{upload_id}", responses=documented(404))
def get_upload(upload_id: UploadId, served: Served) -> Upload:
    """Show which parts are missing: those are to be sent to resume."""
    with served.database.read() as session:
        return uploads.get(session, upload_id)


@router.put(
    "/v1/uploads/{upload_id}/parts/{number}",
    openapi_extra=_RAW,
    responses=documented(400, 404, 408, 413, 507),
)
async def send_part(
    upload_id: UploadId,
    number: PartNumber,
    request: Request,
    served: Served,
    content_digest: Annotated[
        str | None, Header(max_length=1000, description="`sha-256=:…:` of the part (RFC 9530); checked when sent.")
    ] = None,
) -> Upload:
    """Send the raw bytes of one part. Sent again, it takes the place of the first."""
    expected = await run_in_threadpool(_expected, served, upload_id, number)
    with parts.held() as file:
        arrived = await parts.receive(request.stream(), file, expected_bytes=expected, digest=content_digest)
        return await run_in_threadpool(_keep, served, upload_id, number, arrived)


@router.delete("/v1/uploads/{upload_id}", status_code=204, response_class=Response, responses=documented(404, 409))
def delete_upload(upload_id: UploadId, served: Served) -> Response:
    """Forget an upload."""
    with served.database.transaction() as session:
        uploads.forget(session, upload_id)
    return Response(status_code=204)


def _expected(served: Service, upload_id: str, number: int) -> int:
    with served.database.read() as session:
        expected = uploads.expected_bytes(session, upload_id, number=number)
    served.artifacts.require_room(expected)
    return expected


def _keep(served: Service, upload_id: str, number: int, part: Arrived) -> Upload:
    key = f"uploads/{upload_id}/{number:05d}-{part.sha256[:16]}"
    served.artifacts.put(key, part.path)
    with served.database.transaction() as session:
        return uploads.add_part(
            session, upload_id, number=number, key=key, sha256=part.sha256, size_bytes=part.size_bytes
        )
