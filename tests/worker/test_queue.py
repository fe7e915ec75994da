"""Hints: sent quickly or refused quickly, and the settings that keep a day-long job safe."""

import json
import socket
import time
from collections.abc import Callable

import pytest
import redis

from distillery.errors import Unavailable
from worker.queue import TASK, celery_app, enqueue


def test_a_hint_carries_the_id_and_nothing_else(redis_url: str) -> None:
    assert enqueue("job_1", queue="gpu.a", redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as connection:
        message = json.loads(connection.lrange("dk:gpu.a", 0, -1)[0])
    assert message["headers"]["task"] == TASK
    assert message["headers"]["argsrepr"] == "['job_1']"
    assert message["content-type"] == "application/json"


def test_without_an_address_no_hint_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLERY_REDIS_URL", raising=False)
    assert not enqueue("job_1", queue="default")


def test_the_address_is_taken_from_the_environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_REDIS_URL", redis_url)
    assert enqueue("job_1", queue="default")


def test_a_redis_that_is_away_or_silent_is_reported_and_not_waited_for(unused_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (unused_port(), silent.getsockname()[1]):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="job_1 could not be sent"):
                enqueue("job_1", queue="default", redis_url=f"redis://127.0.0.1:{port}/0")
            assert time.monotonic() - began < 10, "a submit must not hang on the broker"


def test_a_redis_that_dropped_our_connections_gets_the_next_hint_all_the_same(redis_url: str) -> None:
    enqueue("job_1", queue="default", redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as connection:
        for client in connection.client_list():
            if client["db"] == redis_url.rpartition("/")[2] and int(client["id"]) != connection.client_id():
                connection.client_kill_filter(_id=client["id"])
        assert enqueue("job_2", queue="default", redis_url=redis_url)
        assert connection.llen("dk:default") == 2


def test_the_settings_are_those_that_were_measured() -> None:
    settings = celery_app("redis://127.0.0.1:1/0").conf
    assert {
        "acks_late": settings.task_acks_late,
        "disable_prefetch": settings.worker_disable_prefetch,
        "prefetch_multiplier": settings.worker_prefetch_multiplier,
        "cancel_on_connection_loss": settings.worker_cancel_long_running_tasks_on_connection_loss,
        "reject_on_worker_lost": settings.task_reject_on_worker_lost,
        "time_limits": (settings.task_time_limit, settings.task_soft_time_limit),
        "result_backend": settings.result_backend,
        "ignore_result": settings.task_ignore_result,
        "accept_content": settings.accept_content,
        "serializer": settings.task_serializer,
        "connection_retry": (settings.broker_connection_retry, settings.broker_connection_retry_on_startup),
        "connection_max_retries": settings.broker_connection_max_retries,
        "publish": settings.task_publish_retry_policy,
        "transport": settings.broker_transport_options,
    } == {
        "acks_late": False,
        "disable_prefetch": True,
        "prefetch_multiplier": 1,
        "cancel_on_connection_loss": False,
        "reject_on_worker_lost": False,
        "time_limits": (None, None),
        "result_backend": None,
        "ignore_result": True,
        "accept_content": ["json"],
        "serializer": "json",
        "connection_retry": (True, True),
        "connection_max_retries": None,
        "publish": {"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
        "transport": {
            "visibility_timeout": 3600,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "retry_on_timeout": True,
            "global_keyprefix": "dk:",
        },
    }
