"""The Celery app and `enqueue`: a message is only a hint that a row waits, so losing or doubling one harms nothing.

The API imports this module: no store, no torch, and Celery itself only where there is a broker.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING

from distillery.errors import Unavailable

if TYPE_CHECKING:
    from celery import Celery

TASK = "worker.tasks.distil"
DEFAULT_QUEUE = "default"
_PUBLISH_TIMEOUT_SECONDS = 0.4
_PREFIX = "dk:"
_making = threading.Lock()


def celery_app(redis_url: str) -> Celery:
    """The Celery app of the workers. A hint is acknowledged before it is acted on: rows are retried, not messages."""
    from celery import Celery

    app = Celery("distillery", broker=redis_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_default_queue=DEFAULT_QUEUE,
        # Late acknowledgement re-ran finished jobs and hung 2 of 36 shutdowns; the reaper does the retries.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        # The Celery process hears SIGTERM and passes it on; limits raised inside a task could cut a commit in two.
        task_time_limit=None,
        task_soft_time_limit=None,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        # On a machine that is busy with training a pool process may need longer than the 4 s of the default to start.
        worker_proc_alive_timeout=60,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=25,
        worker_enable_soft_shutdown_on_idle=True,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(connect_seconds=5, answer_seconds=30),
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
    )
    return app


def enqueue(job_id: str, *, queue: str, redis_url: str | None = None) -> bool:
    """Tell the workers of a queue that a row waits. Without a Redis address (embedded mode) workers poll: no hint.

    Returns whether a hint was sent.

    Raises:
        Unavailable: Redis did not take the hint within about two seconds; the outbox sends it later.
    """
    url = redis_url or os.environ.get("DISTILLERY_REDIS_URL")
    if not url:
        return False
    from kombu.exceptions import OperationalError

    try:
        _publisher(url).send_task(TASK, args=[job_id], queue=queue)
    except (OperationalError, OSError) as error:
        raise _away(f"The hint for {job_id} could not be sent", error) from None
    return True


def hints_waiting(queue: str, *, redis_url: str | None = None) -> int:
    """How many hints no worker has taken yet; 0 without a Redis address.

    Raises:
        Unavailable: Redis does not answer.
    """
    url = redis_url or os.environ.get("DISTILLERY_REDIS_URL")
    if not url:
        return 0
    import redis

    seconds = _PUBLISH_TIMEOUT_SECONDS
    try:
        with redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds) as connection:
            return int(connection.llen(f"{_PREFIX}{queue}"))
    except (redis.RedisError, OSError) as error:
        raise _away(f"The hints of the queue {queue} could not be counted", error) from None


def _away(what: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"{what}: Redis does not answer ({error}).", hint="The job is stored and starts when Redis is back."
    )


def _publisher(redis_url: str) -> Celery:
    """The same app with short deadlines: a request waits for it."""
    # One thread at a time: of several that import Celery for the first time, all but one would find it half made.
    with _making:
        return _made_publisher(redis_url)


@functools.lru_cache(maxsize=4)
def _made_publisher(redis_url: str) -> Celery:
    app = celery_app(redis_url)
    app.conf.broker_transport_options = _transport_options(
        connect_seconds=_PUBLISH_TIMEOUT_SECONDS, answer_seconds=_PUBLISH_TIMEOUT_SECONDS
    )
    app.conf.broker_connection_timeout = _PUBLISH_TIMEOUT_SECONDS
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1}
    return app


def _transport_options(*, connect_seconds: float, answer_seconds: float) -> dict[str, object]:
    return {
        "visibility_timeout": 3600,
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": connect_seconds,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
        "global_keyprefix": _PREFIX,
    }
