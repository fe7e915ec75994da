"""Telling the workers that a row waits, once it is committed. Only a hint: who misses it finds the row anyway."""

import logging

from app.log import facts
from app.service import Service
from distillery.errors import Unavailable


def send(service: Service, claimable_id: str, *, queue: str, log: logging.Logger) -> None:
    """Publish the hint; when the broker is away, say so in the log and leave it to the outbox."""
    if service.config.redis_url is None:
        return
    from worker.queue import enqueue  # here, because a service without a broker need not load Celery

    try:
        enqueue(claimable_id, queue=queue, redis_url=service.config.redis_url)
    except Unavailable as error:
        log.warning("hint not sent", extra=facts(id=claimable_id, reason=error.detail))
