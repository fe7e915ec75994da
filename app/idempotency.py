"""`Idempotency-Key`: a request that is sent twice is done once, and answered the same way both times."""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header, Request, Response
from pydantic import BaseModel

from app.errors import Responses
from app.service import Service
from store import idempotency
from store.idempotency import Answer, Taken

_TRIES = 5
"""Each more than the second means that the key was used and forgotten between two looks."""
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Chosen by you and new for each request: sent again within 24 hours, the first answer is repeated.",
    ),
]
REPLAYED: dict[str, Any] = {
    "Idempotent-Replayed": {
        "schema": {"type": "string"},
        "description": "`true` when this is the answer that an earlier request with the same key was given.",
    }
}


def created(description: str) -> dict[str, Any]:
    """The OpenAPI entry of an answer that says where the new thing is."""
    location = {"Location": {"required": True, "schema": {"type": "string"}}}
    return {"description": description, "headers": location | REPLAYED}


CREATED: Responses = {201: created("Stored.")}


def answered_before(
    served: Service, request: Request, key: str | None, *, asked: BaseModel | dict[str, Any] | None
) -> Response | None:
    """The first answer to this request, if it had one: to be asked before the request is judged by what is there now.

    Raises:
        KeyReused: the key was used for another request.
    """
    if key is None:
        return None
    with served.database.read() as session:
        known = idempotency.recall(session, key, request_sha256=_fingerprint(request, asked))
    return None if known is None else _response(known, replayed=True)


def once(
    served: Service,
    request: Request,
    key: str | None,
    act: Callable[[Any], Answer],
    *,
    asked: BaseModel | dict[str, Any] | None,
) -> Response:
    """Do `act` with a session in one transaction, or repeat the answer that this request was given before.

    `asked` is the body as it was understood: two spellings of the same request are the same request.

    Raises:
        KeyReused: the key was used for another request.
        DistilleryError: what `act` raises; nothing is kept then, and the key may be used again.
    """
    if key is None:
        with served.database.transaction() as session:
            return _response(act(session), replayed=False)
    fingerprint = _fingerprint(request, asked)
    for _ in range(_TRIES):
        try:
            with served.database.transaction() as session:
                known = idempotency.recall(session, key, request_sha256=fingerprint)
                answer = known or act(session)
                if known is None:
                    idempotency.remember(session, key, request_sha256=fingerprint, answer=answer)
            return _response(answer, replayed=known is not None)
        except Taken:
            continue
    raise AssertionError("The key was taken and gone again at every try.")


def _fingerprint(request: Request, asked: BaseModel | dict[str, Any] | None) -> str:
    body = asked.model_dump_json() if isinstance(asked, BaseModel) else json.dumps(asked, sort_keys=True)
    return hashlib.sha256(f"{request.method} {request.scope['path']}\n{body}".encode()).hexdigest()


def _response(answer: Answer, *, replayed: bool) -> Response:
    headers = {"Location": answer.location} | ({"Idempotent-Replayed": "true"} if replayed else {})
    return Response(answer.body, answer.status, headers=headers, media_type="application/json")
