"""The inner door of an inference worker: who may knock, what is read, and what becomes of failures nobody foresaw."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from distillery import relay
from distillery.errors import InvalidRequest, NotFound, TooBusy
from store.servable import Asked
from worker.inference.batching import Batcher
from worker.inference.http import make_app

TOKEN = "the-token"
KEY = {"Authorization": f"Bearer {TOKEN}"}
HEAD = Asked(job_id=None, networks=(), media_type="image/png", top_k=1, logits=False).model_dump_json().encode()


class Service:
    """Does as it is told."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self.batcher = Batcher(batch=1, waiting_images=64)
        self.shelf = SimpleNamespace(keys=(), taken_bytes=0)
        self.asked: list[tuple[Asked, bytes]] = []
        self._answer = answer

    async def predict(self, asked: Asked, body: bytes, *, arrived: float) -> Any:
        self.asked.append((asked, body))
        return await self._answer()


@asynccontextmanager
async def nothing(_: Any) -> AsyncIterator[None]:
    yield


def knock(service: Any, *requests: dict[str, Any], places: int = 4) -> list[httpx.Response]:
    """The answers to requests that come at the same time."""

    async def all_at_once() -> list[httpx.Response]:
        app = make_app(service, token=TOKEN, requests=places, lifespan=nothing)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as http:
            return await asyncio.gather(*(http.post("/predict", **each) for each in requests))

    return asyncio.run(all_at_once())


async def says_no() -> Any:
    raise NotFound("It is gone.", hint="Look elsewhere.")


async def breaks() -> Any:
    raise ValueError("the secret is 42")


async def takes_a_while() -> Any:
    await asyncio.sleep(0.05)
    return SimpleNamespace(model_dump_json=lambda: "{}")


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[1:]}"])
def test_nobody_is_heard_without_the_token(key: str) -> None:
    service = Service(takes_a_while)
    (answer,) = knock(service, {"content": HEAD, "headers": {"Authorization": key} if key else {}})
    assert (answer.status_code, service.asked) == (401, [])


def test_the_line_is_read_and_the_rest_handed_on_as_it_came() -> None:
    service = Service(takes_a_while)
    (answer,) = knock(service, {"content": HEAD + b"\n\x00\n\xff", "headers": KEY})
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert service.asked == [(Asked.model_validate_json(HEAD), b"\x00\n\xff")]


def test_an_error_of_ours_is_handed_on() -> None:
    (answer,) = knock(Service(says_no), {"content": HEAD, "headers": KEY})
    error = relay.unpacked(answer.content)
    assert isinstance(error, NotFound)
    assert (error.detail, error.hint) == ("It is gone.", "Look elsewhere.")


def test_what_nobody_foresaw_is_told_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    (answer,) = knock(Service(breaks), {"content": HEAD, "headers": KEY})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "log" in relay.unpacked(answer.content).detail
    assert "the secret is 42" in caplog.text


def test_another_version_of_the_api_is_told_so() -> None:
    (answer,) = knock(Service(takes_a_while), {"content": json.dumps({"ask": 1}).encode(), "headers": KEY})
    error = relay.unpacked(answer.content)
    assert isinstance(error, InvalidRequest)
    assert "different versions" in error.detail


def test_a_body_of_unknown_length_is_not_read() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield HEAD

    service = Service(takes_a_while)
    (answer,) = knock(service, {"content": pieces(), "headers": KEY})
    assert (answer.status_code, service.asked) == (411, [])


def test_who_comes_when_it_is_full_is_sent_away_at_once() -> None:
    service = Service(takes_a_while)
    answers = knock(service, *({"content": HEAD, "headers": KEY} for _ in range(5)), places=2)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 400, 400, 400]
    busy = [relay.unpacked(answer.content) for answer in answers if not answer.is_success]
    assert all(isinstance(each, TooBusy) for each in busy)
    assert len(service.asked) == 2
