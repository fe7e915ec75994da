"""The inner door of an inference worker. Only the API knocks here, with the token that this process announced.

POST /predict   a line of JSON (`store.servable.Asked`), then the body as it was sent to the API
GET /figures    what is loaded, waits, and was computed
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from distillery import relay
from distillery.errors import DistilleryError, InvalidRequest, TooLarge
from distillery.predictions import MOST_BODY_BYTES
from distillery.turnstile import Turnstile
from store.servable import Asked
from worker.inference.service import Service

MOST_HEAD_BYTES = 8 << 20
"""Of the line before the body: a network may have a hundred thousand classes with names."""
_BODIES = 8
"""Of the largest bodies there may be so many in memory."""
_GONE = 499
"""Nobody reads it: whoever asked has hung up."""
_log = logging.getLogger(__name__)


def make_app(
    service: Service, *, token: str, requests: int, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]]
) -> Starlette:
    """The application; `requests` are worked on or wait at once."""
    turnstile = Turnstile(requests=requests, bytes_=_BODIES * MOST_BODY_BYTES)
    digest = hashlib.sha256(token.encode()).digest()

    def known(request: Request) -> bool:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        # Digests, which are of one length: the comparison tells nothing about the token.
        alike = hmac.compare_digest(hashlib.sha256(sent.encode("latin-1")).digest(), digest)
        return scheme.lower() == "bearer" and alike

    async def predict(request: Request) -> Response:
        arrived = time.monotonic()
        if not known(request):
            return Response("A token is needed.", 401)
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return Response("The length must be announced.", 411)
        try:
            announced = int(length)
            with turnstile.place(announced, retry_after_seconds=service.batcher.retry_seconds):
                head, body = await _read(request, announced)
                return await _unless_gone(request, service.predict(head, body, arrived=arrived))
        except ClientDisconnect:
            return Response(status_code=_GONE)
        except DistilleryError as error:
            return Response(relay.packed(error), 400, media_type="application/json")
        except Exception:  # the last door: the log is told why, the API that it was our fault
            _log.exception("A prediction failed.")
            unforeseen = DistilleryError("The inference worker failed in a way that was not foreseen; see its log.")
            return Response(relay.packed(unforeseen), 500, media_type="application/json")

    async def figures(request: Request) -> Response:
        if not known(request):
            return Response("A token is needed.", 401)
        return JSONResponse(
            {
                "requests": turnstile.requests,
                "bytes": turnstile.bytes,
                "loaded": [list(key) for key in service.shelf.keys],
                "loaded_bytes": service.shelf.taken_bytes,
                "batches": service.batcher.batches,
            }
        )

    routes = [Route("/predict", predict, methods=["POST"]), Route("/figures", figures)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _read(request: Request, announced: int) -> tuple[Asked, bytes]:
    if announced > MOST_HEAD_BYTES + MOST_BODY_BYTES:
        raise TooLarge(f"{announced:,} bytes are more than are read.")
    head, _, body = (await request.body()).partition(b"\n")
    try:
        return Asked.model_validate_json(head), body
    except ValidationError as error:
        raise InvalidRequest(f"The API and this worker are of different versions: {error.title}.") from None


async def _unless_gone(request: Request, work: Any) -> Response:
    """The answer; when the client hangs up before, the work is given up, and with it the places that it took."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=_GONE)
        return Response(working.result().model_dump_json(), media_type="application/json")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Compute batches for as long as the block lasts."""
    serving = asyncio.create_task(service.batcher.serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        service.close()
