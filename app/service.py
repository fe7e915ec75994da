"""What a request may use: the database, the artifact store, and where the broker is."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from store.artifacts import Artifacts
from store.config import StoreConfig, WebhookConfig
from store.db import Database


@dataclass(frozen=True)
class Service:
    """The open connections of one API process."""

    config: StoreConfig
    database: Database
    artifacts: Artifacts
    webhooks: WebhookConfig


def open_service(config: StoreConfig) -> Service:
    """Open the stores of `config`; the database is not spoken to before the first request.

    Raises:
        InvalidRequest: an address cannot be used, or the settings of webhooks in the environment cannot.
    """
    webhooks = WebhookConfig.from_environment()
    return Service(config, Database(config.database_url), Artifacts(config.artifacts_url), webhooks)


async def _of(request: Request) -> Service:
    """Async although it waits for nothing: FastAPI would give a plain function a thread of its own."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_of)]
"""The service, as a parameter of an endpoint.

Each endpoint opens its one transaction itself and commits before it answers. A dependency with `yield` would hold the
transaction across three turns of the thread pool: forty requests waiting for SQLite's one write lock could then keep
the request that holds it from ever getting a thread.
"""
