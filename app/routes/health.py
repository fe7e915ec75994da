"""Whether the service lives, whether it can serve, and its figures for Prometheus."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from app.errors import Responses
from app.service import Served, Service
from distillery.errors import DistilleryError, Unavailable
from distillery.views import Health
from store import overview
from store.db import pending_migrations

router = APIRouter(tags=["health"])
BROKER_SECONDS = 1.0
_NOT_READY: Responses = {503: {"model": Health, "description": "The database or the artifact store is away."}}
_TEXT: Responses = {200: {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/livez")
async def live() -> Health:
    """Say that the process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses=_NOT_READY)
def ready(served: Served) -> Response:
    """Say whether requests can be served. A broker that is away is told but no reason to turn requests away:
    jobs are stored, and start when it is back.
    """
    checks = {
        "database": _said(lambda: _database(served)),
        "artifacts": _said(served.artifacts.ping),
    }
    able = all(answer == "ok" for answer in checks.values())
    if served.config.redis_url is not None:
        checks["broker"] = _said(lambda: _broker(served))
    health = Health(status="ok" if able else "unavailable", checks=checks)
    return JSONResponse(health.model_dump(), 200 if able else 503)


@router.get("/metrics", response_class=Response, responses=_TEXT)
def prometheus(request: Request, served: Served) -> Response:
    """Count jobs by status, what waits in the outbox, and requests by route, in the format of Prometheus."""
    registry = CollectorRegistry()
    by_status = Gauge("distillery_jobs", "Jobs by status.", ["status"], registry=registry)
    waiting = Gauge("distillery_outbox", "Hints, deletions and webhooks to be done.", ["kind"], registry=registry)
    refused = Gauge("distillery_refused_writes", "Writes that came too late and changed nothing.", registry=registry)
    with served.database.read() as session:
        for status, number in overview.jobs_by_status(session).items():
            by_status.labels(status).set(number)
        for kind, number in overview.outbox_by_kind(session).items():
            waiting.labels(kind).set(number)
        refused.set(overview.refused_writes(session))
    text = generate_latest(registry) + generate_latest(request.app.state.meter.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _said(check: Callable[[], None]) -> str:
    try:
        check()
    except DistilleryError as error:
        return error.title
    return "ok"


def _database(served: Service) -> None:
    served.database.ping()
    if pending_migrations(served.config.database_url):
        raise Unavailable("The tables are not up to date.", hint="Run python -m store.migrate.")


def _broker(served: Service) -> None:
    import redis  # here, because a service without a broker need not load it

    url = served.config.redis_url or ""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=BROKER_SECONDS, socket_timeout=BROKER_SECONDS) as broker:
            broker.ping()
    except (redis.RedisError, ValueError) as error:
        raise Unavailable("The broker does not answer.") from error
