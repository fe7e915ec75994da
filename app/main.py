"""The API. Run it with `uvicorn --factory app.main:create_app --timeout-graceful-shutdown 5 --no-access-log`.

The deadline on shutdown matters: a live event stream would otherwise keep the server from ever stopping.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from app import errors, openapi
from app.auth import KeyCheck
from app.limits import BodyLimits
from app.log import json_log
from app.observe import Observe, RequestMeter
from app.parameters import known_query_only
from app.routes import catalogues, events, files, health, jobs, latency, metrics, models
from app.service import open_service
from store.config import StoreConfig

ROUTERS: tuple[APIRouter, ...] = tuple(
    module.router for module in (jobs, events, metrics, files, latency, models, catalogues, health, openapi)
)


def create_app(config: StoreConfig | None = None, *, api_key: str | None = None) -> FastAPI:
    """The application; what is left out comes from the environment (DISTILLERY_API_KEY and those of `StoreConfig`).

    Raises:
        InvalidRequest: the environment lacks an address, or holds one that cannot be used.
    """
    config = config or StoreConfig.from_environment()
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
        responses=errors.documented(401, 422, 500, 503),
    )
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    openapi.install(app)
    app.state.config = config
    app.state.routes = tuple(route for router in ROUTERS for route in router.routes)
    app.state.log, app.state.meter = json_log(), RequestMeter()
    # The last one added is the outermost.
    app.add_middleware(BodyLimits)
    app.add_middleware(KeyCheck, api_key=api_key or os.environ.get("DISTILLERY_API_KEY"))
    app.add_middleware(Observe, log=app.state.log, meter=app.state.meter)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.service = open_service(app.state.config)
    try:
        yield
    finally:
        app.state.service.database.close()


def _operation_id(route: APIRoute) -> str:
    return route.name
