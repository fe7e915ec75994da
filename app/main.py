"""The API. Run it with `python -m app.serve`, or let any other ASGI server call `create_app`.

Another server must bring deadlines of its own: those on heads, connections and unread answers belong to `app.serve`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from app import errors, openapi
from app.auth import KeyCheck
from app.bounds import Bounds
from app.downloads import Presigning
from app.limits import BodyLimits
from app.log import json_log
from app.observe import Observe, RequestMeter
from app.parameters import known_query_only
from app.predictions import Predictions
from app.routes import (
    benchmarks,
    catalogues,
    datasets,
    deeds,
    events,
    files,
    health,
    jobs,
    latency,
    metrics,
    models,
    predict,
    uploads,
    webhooks,
)
from app.service import open_service
from app.turns import Turns
from store.config import StoreConfig

_ROUTES = (
    jobs, deeds, events, metrics, files, latency, benchmarks, uploads, datasets, models, predict, webhooks, catalogues,
    health,
    openapi,
)  # fmt: skip
ROUTERS: tuple[APIRouter, ...] = tuple(module.router for module in _ROUTES)


def create_app(
    config: StoreConfig | None = None, *, api_key: str | None = None, bounds: Bounds | None = None
) -> FastAPI:
    """The application; what is left out comes from the environment.

    That is DISTILLERY_API_KEY, and the variables of `StoreConfig`, `Bounds` and `Presigning`.

    Raises:
        InvalidRequest: the environment lacks an address, or holds one that cannot be used.
    """
    config = config or StoreConfig.from_environment()
    bounds = bounds or Bounds.from_environment()
    app = FastAPI(
        title="Distillery",
        version=version("distillery"),
        summary="Turns a large trained network into a small, fast one, and says honestly what it cost.",
        lifespan=_lifespan,
        openapi_url=None,  # served by our own route; the framework's pages about it load scripts from elsewhere
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
        dependencies=[Depends(known_query_only)],
        responses=errors.documented(401, 422, 429, 500, 503),
    )
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    openapi.install(app)
    app.state.config = config
    app.state.bounds = bounds
    app.state.presigning = Presigning.from_environment()
    app.state.routes = tuple(route for router in ROUTERS for route in router.routes)
    app.state.log, app.state.meter = json_log(), RequestMeter()
    # The last one added is the outermost.
    app.add_middleware(BodyLimits, seconds=bounds.body_seconds)
    app.add_middleware(Turns, bounds=bounds)
    app.add_middleware(KeyCheck, api_key=api_key or os.environ.get("DISTILLERY_API_KEY"))
    app.add_middleware(Observe, log=app.state.log, meter=app.state.meter)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.service = open_service(app.state.config)
    app.state.predictions = Predictions(app.state.bounds)
    app.state.feed = events.feed_of(app.state.service)
    try:
        yield
    finally:
        await app.state.feed.close()
        await app.state.predictions.close()
        app.state.service.database.close()


def _operation_id(route: APIRoute) -> str:
    return route.name
