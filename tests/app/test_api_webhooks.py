"""Webhooks over HTTP: register, refuse, name in a spec, watch deliveries, send again."""

import json
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from distillery.webhooks import DEFAULT_TYPES
from store import deliveries
from store.deliveries import Attempted

URL = "https://hooks.example.com/distillery"
NOBODY = "whk_" + "0" * 26


def register(live: Any, url: str = URL, **options: Any) -> dict[str, Any]:
    answer = live.http.post("/v1/webhooks", json={"url": url, **options})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    return made


def attempt(live: Any, tried: Attempted) -> None:
    """Does what a worker does with the next message."""
    with live.worker.database.transaction() as session:
        (entry,) = deliveries.take(session, limit=1)
        deliveries.record_try(session, entry, tried, schedule_seconds=(0.0, 0.0))


def test_an_endpoint_is_registered_listed_shown_and_removed(either: Any) -> None:
    made = register(either)
    secret = made.pop("secret")
    assert Webhook(secret).sign is not None
    assert (made["url"], made["scope"], made["enabled"]) == (URL, "all", True)
    assert tuple(made["types"]) == DEFAULT_TYPES
    at = f"/v1/webhooks/{made['id']}"
    assert either.http.get(at).json() == made
    assert either.http.get("/v1/webhooks").json() == {"data": [made], "next_page_token": None}
    for path in ("/v1/webhooks", at, f"{at}/deliveries"):
        assert secret not in either.http.get(path).text
    assert either.http.delete(at).json() == made
    assert either.http.get("/v1/webhooks").json()["data"] == []


def test_the_same_url_is_refused_the_second_time(alone: Any, check_problem: Any) -> None:
    made = register(alone)
    problem = check_problem(alone.http.post("/v1/webhooks", json={"url": URL}), 409, "WRONG_STATE")
    assert made["id"] in problem.detail


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": 1}, "/url"),
        ({"url": "http://hooks.example.com/"}, "/url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "/url"),
        ({"url": "https://2130706433/"}, "/url"),
        ({"url": "https://[::ffff:7f00:1]/"}, "/url"),
        ({"url": "https://user:secret@hooks.example.com/"}, "/url"),
        ({"url": "https://hooks.example.com:22/"}, "/url"),
        ({"url": "https://hooks.example.com/" + "a" * 3000}, "/url"),
        ({"url": URL, "types": ["checkpoint"]}, "/types/0"),
        ({"url": URL, "types": ["succeded"]}, "/types/0"),
        ({"url": URL, "types": []}, "/types"),
        ({"url": URL, "scope": "some"}, "/scope"),
        ({"url": URL, "secret": "mine"}, "/secret"),
        ([], ""),
    ],
    ids=str,
)
def test_a_bad_endpoint_is_refused_with_pointers_and_hints(
    live: Any, check_problem: Any, body: Any, pointer: str
) -> None:
    problem = check_problem(live.http.post("/v1/webhooks", json=body), 422, "INVALID_WEBHOOK")
    assert problem.title == "The webhook has errors"
    assert [each.pointer for each in problem.errors] == [pointer]
    assert problem.errors[0].hint


def test_a_spec_may_name_only_what_is_registered_and_enabled(alone: Any, check_problem: Any) -> None:
    register(alone)
    named = [{"url": URL}, {"url": "https://hooks.example.com/other"}]
    spec = alone.submit()["spec"] | {"notify": named}
    for path in ("/v1/jobs", "/v1/jobs:validate"):
        problem = check_problem(alone.http.post(path, json=spec), 422, "INVALID_SPEC")
        assert [(each.pointer, each.code) for each in problem.errors] == [("/notify/1/url", "UNKNOWN_WEBHOOK")]
        assert "distillery webhooks add" in problem.errors[0].hint
    assert alone.submit(notify=named[:1])["spec"]["notify"] == named[:1]


def test_deliveries_are_listed_with_every_try_and_sent_again(either: Any, check_problem: Any) -> None:
    webhook = register(either, types=["queued"])
    at = f"/v1/webhooks/{webhook['id']}"
    job = either.submit()
    attempt(either, Attempted(seconds=0.5, status_code=500, error="The receiver answered 500."))
    attempt(either, Attempted(seconds=0.1, status_code=410, error="The receiver answered 410."))
    (shown,) = either.http.get(f"{at}/deliveries").json()["data"]
    assert (shown["type"], shown["job_id"], shown["seq"], shown["status"]) == ("job.queued", job["id"], 1, "failed")
    assert [each["status_code"] for each in shown["tries"]] == [500, 410]
    events = either.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [each["type"] for each in events] == ["queued", "webhook_disabled"]
    assert either.http.get(at).json()["disabled_reason"] == "It answered 410 Gone."
    again = f"{at}/deliveries/{shown['id']}:redeliver"
    assert "disabled" in check_problem(either.http.post(again), 409, "WRONG_STATE").detail
    assert either.http.post(f"{at}:enable").json()["enabled"]
    assert either.http.post(again).json()["status"] == "waiting"
    attempt(either, Attempted(seconds=0.1, status_code=204))
    (shown,) = either.http.get(f"{at}/deliveries").json()["data"]
    assert (shown["status"], len(shown["tries"])) == ("delivered", 3)


def test_rotation_gives_a_new_secret_and_says_how_long_the_old_one_signs(alone: Any) -> None:
    made = register(alone)
    rotated = alone.http.post(f"/v1/webhooks/{made['id']}:rotate").json()
    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_until"] > rotated["created_at"]


def test_a_test_sends_a_ping(alone: Any) -> None:
    made = register(alone)
    ping = alone.http.post(f"/v1/webhooks/{made['id']}:test").json()
    assert (ping["type"], ping["job_id"], ping["status"]) == ("ping", None, "waiting")
    assert alone.http.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"] == [ping]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/webhooks/{NOBODY}"),
        ("DELETE", f"/v1/webhooks/{NOBODY}"),
        ("POST", f"/v1/webhooks/{NOBODY}:enable"),
        ("POST", f"/v1/webhooks/{NOBODY}:rotate"),
        ("POST", f"/v1/webhooks/{NOBODY}:test"),
        ("GET", f"/v1/webhooks/{NOBODY}/deliveries"),
        ("POST", f"/v1/webhooks/{NOBODY}/deliveries/msg_{'0' * 26}:redeliver"),
        ("GET", "/v1/webhooks/nonsense"),
        ("GET", "/v1/webhooks/%00"),
    ],
)
def test_what_is_not_there_is_404(live: Any, check_problem: Any, method: str, path: str) -> None:
    assert check_problem(live.http.request(method, path), 404, "NOT_FOUND").hint


def test_secrets_and_addresses_stand_in_no_log(alone: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = register(alone, "https://hooks.example.com/a-path-that-is-a-secret")
    alone.http.post("/v1/webhooks", json={"url": made["url"]})
    alone.http.post(f"/v1/webhooks/{made['id']}:rotate")
    said = json.dumps(capsys.readouterr())
    assert made["secret"] not in said
    assert "a-path-that-is-a-secret" not in said


def test_the_operator_may_allow_a_network(launch: Any, monkeypatch: pytest.MonkeyPatch, check_problem: Any) -> None:
    monkeypatch.setenv("DISTILLERY_WEBHOOK_NETWORKS", "10.0.0.0/8, fd00::/8")
    with launch() as live:
        register(live, "http://10.1.2.3:9000/hook")
        answer = live.http.post("/v1/webhooks", json={"url": "http://192.168.0.1/"})
        assert "DISTILLERY_WEBHOOK_NETWORKS" in check_problem(answer, 422, "INVALID_WEBHOOK").errors[0].hint
