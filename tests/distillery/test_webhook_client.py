"""Webhooks from Python and from the command line, against a peer."""

import asyncio
import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from distillery.cli import app
from distillery.client import AsyncClient, Client
from distillery.views import Page
from distillery.webhook_client import AsyncWebhooks, Webhooks
from distillery.webhooks import DEFAULT_TYPES, Delivery, Try, Webhook, WebhookWithSecret

URL = "https://hooks.example.com/distillery"
WEBHOOK_ID, DELIVERY_ID = "whk_" + "0" * 26, "msg_" + "0" * 26
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Run = Callable[..., Any]


def webhook(**changes: Any) -> Webhook:
    given = {"id": WEBHOOK_ID, "url": URL, "scope": "all", "types": DEFAULT_TYPES, "enabled": True, "created_at": NOW}
    return Webhook(**given | changes)


def with_secret() -> WebhookWithSecret:
    return WebhookWithSecret(**webhook().model_dump(), secret=SECRET)


def delivery(**changes: Any) -> Delivery:
    failed = Try(at=NOW, seconds=0.2, status_code=500, error="The receiver answered 500.")
    given = {"id": DELIVERY_ID, "webhook_id": WEBHOOK_ID, "type": "job.failed", "status": "waiting", "tries": (failed,)}
    return Delivery(**given | {"created_at": NOW} | changes)


@pytest.fixture
def run(peer: Any) -> Run:
    """`run("list")` against the peer."""

    def invoked(*arguments: str) -> Any:
        environment = {"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": ""}
        return CliRunner(env=environment).invoke(app, ["webhooks", *arguments])

    return invoked


def asked(peer: Any) -> list[tuple[str, str]]:
    return [(each.method, each.path.partition("?")[0]) for each in peer.seen]


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters) for name, method in methods if not name.startswith("_")
        }

    assert surface(Webhooks) == surface(AsyncWebhooks)


def test_each_method_makes_its_request_with_either_client(peer: Any) -> None:
    of_it, message = f"/v1/webhooks/{WEBHOOK_ID}", f"/v1/webhooks/{WEBHOOK_ID}/deliveries/{DELIVERY_ID}"
    answers = [
        (peer.says(with_secret(), status=201), ("POST", "/v1/webhooks")),
        (peer.says(webhook()), ("GET", of_it)),
        (peer.says(webhook()), ("POST", f"{of_it}:enable")),
        (peer.says(with_secret()), ("POST", f"{of_it}:rotate")),
        (peer.says(delivery()), ("POST", f"{of_it}:test")),
        (peer.says(delivery()), ("POST", f"{message}:redeliver")),
        (peer.says(webhook()), ("DELETE", of_it)),
    ]
    peer.script = [answer for answer, _ in answers] * 2
    with Client(peer.url) as client:
        assert client.webhooks.add(URL, types=["failed"], scope="named").secret == SECRET
        assert client.webhooks.get(WEBHOOK_ID).url == URL
        assert client.webhooks.enable(WEBHOOK_ID).enabled
        assert client.webhooks.rotate(WEBHOOK_ID).secret == SECRET
        assert client.webhooks.test(WEBHOOK_ID).id == DELIVERY_ID
        assert client.webhooks.redeliver(WEBHOOK_ID, DELIVERY_ID).tries[0].status_code == 500
        assert client.webhooks.remove(WEBHOOK_ID).id == WEBHOOK_ID

    async def again() -> None:
        async with AsyncClient(peer.url) as client:
            assert (await client.webhooks.add(URL)).secret == SECRET
            await client.webhooks.get(WEBHOOK_ID)
            await client.webhooks.enable(WEBHOOK_ID)
            await client.webhooks.rotate(WEBHOOK_ID)
            await client.webhooks.test(WEBHOOK_ID)
            await client.webhooks.redeliver(WEBHOOK_ID, DELIVERY_ID)
            await client.webhooks.remove(WEBHOOK_ID)

    asyncio.run(again())
    assert asked(peer) == [request for _, request in answers] * 2
    assert json.loads(peer.seen[0].body) == {"url": URL, "types": ["failed"], "scope": "named"}
    assert json.loads(peer.seen[7].body) == {"url": URL, "scope": "all"}


def test_lists_are_read_page_by_page_with_either_client(peer: Any) -> None:
    pages: list[Any] = [
        Page[Webhook](data=(webhook(),), next_page_token="more"),
        Page[Webhook](data=(webhook(scope="named"),)),
        Page[Delivery](data=(delivery(),), next_page_token="more"),
        Page[Delivery](data=(delivery(status="failed"),)),
    ]
    peer.script = [peer.says(page) for page in pages] * 2
    with Client(peer.url) as client:
        assert [each.scope for each in client.webhooks.list()] == ["all", "named"]
        assert [each.status for each in client.webhooks.deliveries(WEBHOOK_ID)] == ["waiting", "failed"]

    async def again() -> None:
        async with AsyncClient(peer.url) as client:
            assert [each.scope async for each in client.webhooks.list()] == ["all", "named"]
            assert [each.status async for each in client.webhooks.deliveries(WEBHOOK_ID)] == ["waiting", "failed"]

    asyncio.run(again())
    assert "page_token=more" in peer.seen[1].path
    assert "page_token=more" in peer.seen[7].path


def test_add_prints_id_and_secret_alone_on_stdout(run: Run, peer: Any) -> None:
    peer.script = [peer.says(with_secret(), status=201)]
    result = run("add", URL, "--only-named", "--type", "failed", "--type", "succeeded")
    assert (result.exit_code, result.stdout) == (0, f"{WEBHOOK_ID} {SECRET}\n")
    assert "not shown again" in result.stderr
    assert json.loads(peer.seen[0].body) == {"url": URL, "types": ["failed", "succeeded"], "scope": "named"}
    assert json.loads(run("add", URL, "--json").stdout)["secret"] == SECRET


def test_lists_are_tables_that_say_what_is_wrong(run: Run, peer: Any) -> None:
    peer.script = [peer.says(Page[Webhook](data=(webhook(enabled=False, disabled_reason="It answered 410 Gone."),)))]
    assert "disabled: It answered 410 Gone." in run("list").stdout
    peer.script.append(peer.says(Page[Delivery](data=(delivery(), delivery(tries=(), status="waiting")))))
    table = run("deliveries", WEBHOOK_ID).stdout
    assert "The receiver answered 500." in table
    assert len(json.loads(run("deliveries", WEBHOOK_ID, "--limit", "1", "--json").stdout)) == 1
    peer.script.append(peer.says(Page[Webhook](data=())))
    assert "There are no webhooks." in run("list").stderr


@pytest.mark.parametrize(
    ("arguments", "answer", "stdout", "said"),
    [
        (("rotate", WEBHOOK_ID), with_secret(), f"{SECRET}\n", "not shown again"),
        (("test", WEBHOOK_ID), delivery(), f"{DELIVERY_ID}\n", f"distillery webhooks deliveries {WEBHOOK_ID}"),
        (("remove", WEBHOOK_ID), webhook(), "", "told nothing more"),
        (("enable", WEBHOOK_ID), webhook(), "", "told again"),
        (("redeliver", WEBHOOK_ID, DELIVERY_ID), delivery(), "", "sent again"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_verbs_say_what_they_did(
    run: Run, peer: Any, arguments: tuple[str, ...], answer: Any, stdout: str, said: str
) -> None:
    peer.script = [peer.says(answer)]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (0, stdout)
    assert said in result.stderr
    assert json.loads(run(*arguments, "--json").stdout) == json.loads(answer.model_dump_json())


def test_a_refusal_says_how_to_mend_it(run: Run, peer: Any) -> None:
    fault = {"pointer": "/url", "code": "URL_SCHEME", "detail": "The URL begins with 'http'.", "hint": "Use https://."}
    peer.script = [peer.problem(422, "INVALID_WEBHOOK", "The webhook has errors.", errors=(fault,))]
    result = run("add", "http://hooks.example.com/")
    assert result.exit_code == 2
    assert "/url: The URL begins with 'http'. Use https://." in result.stderr
