"""Endpoints and their messages: written with the event they tell of, handed out once, every try kept."""

import base64
import itertools
import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, get_args

import pytest

from distillery.errors import InvalidPageToken, InvalidWebhook, NotFound, WrongState
from distillery.spec import LatencySpec
from distillery.views import EventType
from distillery.webhooks import DEFAULT_TYPES, NewWebhook, WebhookType, WebhookWithSecret
from store import benchmarks, deliveries, events, jobs, leases, outbox, webhooks, wishes
from store.deliveries import Attempted
from store.webhooks import MOST_WEBHOOKS

URL = "https://hooks.example.com/distillery"
OTHER_URL = "https://hooks.example.com/other"
SCHEDULE = (5.0, 300.0)
ARRIVED = Attempted(seconds=0.2, status_code=200)
REFUSED = Attempted(seconds=0.3, status_code=500, error="The receiver answered 500.")
GONE = Attempted(seconds=0.1, status_code=410, error="The receiver answered 410.")
Add = Callable[..., WebhookWithSecret]


@pytest.fixture
def add(shop: Any) -> Add:
    """Registers an endpoint."""

    def register(url: str = URL, **options: Any) -> Any:
        return shop.do(webhooks.register, NewWebhook(url=url, **options))

    return register


def sent(shop: Any, webhook: Any) -> list[tuple[str, int]]:
    """Type and number of each message to an endpoint, oldest first."""
    page = shop.see(deliveries.page, webhook.id)
    return [(each.type, each.seq) for each in reversed(page.data)]


def bodies(shop: Any) -> list[dict[str, Any]]:
    return [json.loads(row.body) for row in shop.sql("SELECT body FROM deliveries ORDER BY created_at, id")]


def due(shop: Any, **options: Any) -> Any:
    shop.sql("UPDATE outbox SET next_try_at = 0")
    return shop.do(deliveries.take, limit=100, **options)


def attempt(shop: Any, entry: Any, tried: Attempted) -> None:
    shop.do(deliveries.record_try, entry, tried, schedule_seconds=SCHEDULE, jitter=0.0)


def only(shop: Any, webhook: Any) -> Any:
    (delivery,) = shop.see(deliveries.page, webhook.id).data
    return delivery


def test_an_endpoint_is_shown_with_its_secret_only_once(shop: Any, add: Add) -> None:
    made = add()
    assert made.id.startswith("whk_")
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"))) == 32
    assert (made.scope, made.types, made.enabled) == ("all", DEFAULT_TYPES, True)
    for shown in (shop.see(webhooks.get, made.id), *shop.see(webhooks.page).data):
        assert not hasattr(shown, "secret")
    assert made.secret not in repr(made)
    assert add(OTHER_URL).secret != made.secret


def test_an_address_is_registered_once_and_only_if_it_may_be_reached(shop: Any, add: Add) -> None:
    made = add()
    with pytest.raises(WrongState, match=made.id):
        add()
    with pytest.raises(InvalidWebhook, match="not an address of the public internet"):
        add("https://169.254.169.254/")


def test_there_is_a_most_of_endpoints(add: Add) -> None:
    for number in range(MOST_WEBHOOKS):
        add(f"{URL}/{number}")
    with pytest.raises(WrongState, match="no more are kept"):
        add()


def test_types_are_those_of_events_that_are_not_too_many() -> None:
    assert set(get_args(WebhookType)) < set(get_args(EventType))
    assert set(DEFAULT_TYPES) < set(get_args(WebhookType))
    with pytest.raises(ValueError, match="happens too often"):
        NewWebhook(url=URL, types=("checkpoint",))  # type: ignore[arg-type]
    assert NewWebhook(url=URL, types=("failed", "failed", "queued")).types == ("failed", "queued")


def test_endpoints_are_listed_in_pages_newest_first(shop: Any, add: Add) -> None:
    made = [add(f"{URL}/{number}").id for number in range(3)]
    first = shop.see(webhooks.page, page_size=2)
    second = shop.see(webhooks.page, page_size=2, token=first.next_page_token)
    assert [each.id for each in (*first.data, *second.data)] == made[::-1]
    assert second.next_page_token is None


def test_every_status_of_a_job_is_told_in_a_thin_message(shop: Any, add: Add) -> None:
    webhook = add()
    claim = shop.claimed(name="a study")
    shop.save(claim, 10)
    shop.do(leases.release, claim)
    again = shop.claim(claim.id)
    shop.fail(again)
    told = [f"job.{kind}" for kind in ("started", "requeued", "started", "failed")]
    assert [kind for kind, _ in sent(shop, webhook)] == told
    happened = {each.seq: each for each in shop.see(events.after, claim.id)}
    for body in bodies(shop):
        data = body["data"]
        event = happened[data["seq"]]
        assert body["type"] == f"job.{event.type}"
        assert abs((datetime.fromisoformat(body["timestamp"]) - event.at).total_seconds()) < 0.01
        assert (data["job_id"], data["name"], data["message"]) == (claim.id, "a study", event.message)
        assert data["url"] == f"/v1/jobs/{claim.id}"
    assert [body["data"]["status"] for body in bodies(shop)] == ["running", "queued", "running", "failed"]


def test_only_the_types_asked_for_are_told(shop: Any, add: Add) -> None:
    webhook = add(types=("queued", "cancelled"))
    job = shop.submit()
    shop.do(wishes.cancel, job.id)
    assert [kind for kind, _ in sent(shop, webhook)] == ["job.queued", "job.cancelled"]


def test_named_endpoints_hear_only_of_jobs_that_name_them(shop: Any, add: Add) -> None:
    everyone, named = add(types=("queued",)), add(OTHER_URL, types=("queued",), scope="named")
    shop.submit()
    chosen = shop.submit(notify=[{"url": OTHER_URL}, {"url": URL}])
    assert len(sent(shop, everyone)) == 2
    assert [only(shop, named).job_id, len(sent(shop, named))] == [chosen.id, 1]


def test_measurements_are_not_told_of(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    job = shop.submit()
    shop.sql("UPDATE jobs SET status = 'succeeded', student_model_id = 'mdl_x' WHERE id = :id", id=job.id)
    shop.do(benchmarks.request, job.id, spec=LatencySpec())
    assert sent(shop, webhook) == [("job.queued", 1)]


def test_an_event_and_its_messages_are_written_together_or_not_at_all(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    sent_spec = shop.submit().spec
    with pytest.raises(ZeroDivisionError), shop.database.transaction() as session:
        jobs.submit(session, sent=sent_spec, resolved=sent_spec)
        raise ZeroDivisionError
    assert len(sent(shop, webhook)) == len(due(shop)) == 1


def test_without_endpoints_nothing_is_written(shop: Any) -> None:
    shop.fail(shop.claimed())
    assert shop.sql("SELECT * FROM deliveries") == []
    assert due(shop) == []


def test_a_message_holds_no_more_than_a_word(shop: Any, add: Add) -> None:
    add()
    claim = shop.claimed(name="ü" * 200)
    shop.crash(claim)
    shop.no_backoff(claim.id)
    shop.do(leases.crash, shop.claim(claim.id), exit_code=1, detail="\x00\ud800é" * 50_000, lease=shop.lease)
    assert max(len(row.body.encode()) for row in shop.sql("SELECT body FROM deliveries")) < 20_000


def test_a_delivered_message_is_done(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    letter = shop.see(deliveries.letter, entry.payload["delivery_id"])
    assert (letter.id, letter.url, letter.secrets) == (entry.payload["delivery_id"], URL, (webhook.secret,))
    assert webhook.secret not in repr(letter)
    attempt(shop, entry, ARRIVED)
    delivery = only(shop, webhook)
    assert (delivery.status, delivery.tries[0].status_code, delivery.tries[0].seconds) == ("delivered", 200, 0.2)
    assert delivery.ended_at >= delivery.tries[0].at
    assert due(shop) == []
    assert shop.see(deliveries.letter, delivery.id) is None


def test_a_message_that_did_not_arrive_waits_longer_each_time(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    shop.submit()
    waits = []
    for tried in (REFUSED, Attempted(seconds=10, error="It did not answer within 10 s.")):
        (entry,) = due(shop)
        attempt(shop, entry, tried)
        (row,) = shop.sql("SELECT next_try_at FROM outbox WHERE kind = 'webhook'")
        waits.append(row.next_try_at - shop.sql("SELECT max(created_at) AS at FROM deliveries")[0].at)
    assert [abs(wait - planned) < 10 for wait, planned in zip(waits, SCHEDULE, strict=True)] == [True, True]
    delivery = only(shop, webhook)
    assert delivery.status == "waiting"
    assert [(each.status_code, each.error) for each in delivery.tries] == [
        (500, "The receiver answered 500."),
        (None, "It did not answer within 10 s."),
    ]


def test_waits_are_lengthened_a_little_at_random(shop: Any, add: Add) -> None:
    add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    shop.do(deliveries.record_try, entry, REFUSED, schedule_seconds=(10_000.0,), jitter=0.1)
    (row,) = shop.sql("SELECT next_try_at - created_at AS wait FROM outbox WHERE kind = 'webhook'")
    assert 10_000 <= row.wait < 11_100


def test_after_the_last_try_the_endpoint_is_disabled_and_the_job_says_so(shop: Any, add: Add) -> None:
    webhook = add(types=("queued", "webhook_disabled"))
    witness = add(OTHER_URL, types=("webhook_disabled",))
    job, second = shop.submit(), shop.submit()
    for _ in range(3):
        entry, _ = due(shop)
        attempt(shop, entry, REFUSED)
    shown = shop.see(webhooks.get, webhook.id)
    assert not shown.enabled
    assert shown.disabled_reason == "A message did not arrive in 3 tries. The last one: The receiver answered 500."
    assert shop.event_types(job.id) == ["queued", "webhook_disabled"]
    event = shop.see(events.after, job.id)[-1]
    assert event.data == {"webhook_id": webhook.id}
    assert "hooks.example.com" in event.message
    assert "distillery" not in event.message  # a path may be a secret
    assert shop.event_types(second.id) == ["queued"]
    assert {each.status for each in shop.see(deliveries.page, webhook.id).data} == {"failed"}
    assert sent(shop, witness) == [("job.webhook_disabled", 2)]
    (waiting, *dropped) = sorted(due(shop), key=lambda row: row.payload["webhook_id"] != witness.id)
    assert waiting.payload["webhook_id"] == witness.id
    assert [shop.see(deliveries.letter, row.payload["delivery_id"]) for row in dropped] == [None]


def test_an_endpoint_that_says_it_is_gone_is_disabled_at_once(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    job = shop.submit()
    (entry,) = due(shop)
    attempt(shop, entry, GONE)
    assert shop.see(webhooks.get, webhook.id).disabled_reason == "It answered 410 Gone."
    assert shop.event_types(job.id) == ["queued", "webhook_disabled"]
    shop.submit()
    assert len(sent(shop, webhook)) == 1
    assert shop.do(webhooks.enable, webhook.id).enabled
    shop.submit()
    assert len(sent(shop, webhook)) == 2


def test_a_message_is_sent_again_on_demand_with_a_whole_schedule(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    attempt(shop, entry, GONE)
    delivery = only(shop, webhook)
    with pytest.raises(WrongState, match="disabled"):
        shop.do(deliveries.redeliver, webhook.id, delivery.id)
    shop.do(webhooks.enable, webhook.id)
    assert shop.do(deliveries.redeliver, webhook.id, delivery.id).status == "waiting"
    for tried in (REFUSED, REFUSED, ARRIVED):
        (entry,) = due(shop)
        assert entry.payload["delivery_id"] == delivery.id
        attempt(shop, entry, tried)
    delivery = only(shop, webhook)
    assert (delivery.status, [each.status_code for each in delivery.tries]) == ("delivered", [410, 500, 500, 200])


def test_a_message_that_waits_is_sent_at_once_on_demand(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    attempt(shop, entry, REFUSED)
    assert shop.do(deliveries.take, limit=10) == []
    shop.do(deliveries.redeliver, webhook.id, entry.payload["delivery_id"])
    (again,) = shop.do(deliveries.take, limit=10)
    assert again.payload["delivery_id"] == entry.payload["delivery_id"]
    assert due(shop) == [again]


def test_a_late_word_of_success_counts(shop: Any, add: Add) -> None:
    """Two workers had the message: one was refused for the last time, the other's try had arrived."""
    webhook = add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    attempt(shop, entry, GONE)
    attempt(shop, entry, ARRIVED)
    assert only(shop, webhook).status == "delivered"
    attempt(shop, entry, REFUSED)
    assert only(shop, webhook).status == "delivered"


def test_a_message_is_handed_to_one_of_several_workers(shop: Any, add: Add) -> None:
    add(types=("queued",))
    for _ in range(12):
        shop.submit()
    taken: list[str] = []

    def take() -> None:
        while rows := shop.patiently(deliveries.take, limit=1):
            taken.extend(row.payload["delivery_id"] for row in rows)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == len(set(taken)) == 12


def test_messages_are_forgotten_a_month_after_their_end(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    for _ in range(3):
        shop.submit()
    first, second, _ = due(shop)
    for entry in (first, second):
        attempt(shop, entry, ARRIVED)
    month = {"seconds": 30 * 86_400 + 60, "id": first.payload["delivery_id"]}
    shop.sql("UPDATE deliveries SET ended_at = ended_at - :seconds WHERE id = :id", **month)
    shop.sql("UPDATE deliveries SET created_at = created_at - :seconds", seconds=month["seconds"])
    assert [shop.do(deliveries.sweep) for _ in range(2)] == [1, 0]
    assert len(shop.see(deliveries.page, webhook.id).data) == 2, "one ended just now, and one still waits"


def test_messages_to_busy_endpoints_are_passed_over(shop: Any, add: Add) -> None:
    slow, quick = add(types=("queued",)), add(OTHER_URL, types=("queued",))
    shop.submit()
    assert {row.payload["webhook_id"] for row in due(shop, busy=[slow.id])} == {quick.id}
    assert due(shop, busy=[slow.id, quick.id]) == []
    assert len(due(shop)) == 2


def test_for_a_day_after_rotation_both_secrets_sign(shop: Any, add: Add) -> None:
    webhook = add(types=("queued",))
    shop.submit()
    (entry,) = due(shop)
    rotated = shop.do(webhooks.rotate, webhook.id)
    assert rotated.secret != webhook.secret
    assert 86_000 < (rotated.previous_secret_until - rotated.created_at).total_seconds() < 87_000

    def secrets() -> Any:
        return shop.see(deliveries.letter, entry.payload["delivery_id"]).secrets

    assert secrets() == (rotated.secret, webhook.secret)
    shop.sql("UPDATE webhooks SET previous_until = 1")
    assert secrets() == (rotated.secret,)


def test_a_ping_is_tried_once_and_has_no_consequences(shop: Any, add: Add) -> None:
    webhook = add()
    ping = shop.do(deliveries.ping, webhook.id)
    assert (ping.type, ping.job_id, ping.status) == ("ping", None, "waiting")
    (body,) = bodies(shop)
    assert (body["type"], body["data"]) == ("ping", {"webhook_id": webhook.id})
    (entry,) = due(shop)
    attempt(shop, entry, REFUSED)
    assert only(shop, webhook).status == "failed"
    assert shop.see(webhooks.get, webhook.id).enabled
    assert due(shop) == []


def test_an_endpoint_goes_with_its_messages_and_a_job_with_its_own(shop: Any, add: Add) -> None:
    webhook, other = add(types=("queued",)), add(OTHER_URL, types=("queued",))
    job = shop.submit()
    entries = due(shop)
    assert shop.do(webhooks.remove, webhook.id).id == webhook.id
    with pytest.raises(NotFound, match="no webhook"):
        shop.do(webhooks.remove, webhook.id)
    shop.sql("DELETE FROM jobs WHERE id = :id", id=job.id)
    assert sent(shop, other) == []
    for entry in entries:
        assert shop.see(deliveries.letter, entry.payload["delivery_id"]) is None
        attempt(shop, entry, REFUSED)
    assert due(shop) == []


def test_messages_are_listed_in_pages_of_their_endpoint(shop: Any, add: Add) -> None:
    webhook, other = add(types=("queued",)), add(OTHER_URL, types=("queued",))
    made = [shop.submit().id for _ in range(3)]
    first = shop.see(deliveries.page, webhook.id, page_size=2)
    second = shop.see(deliveries.page, webhook.id, page_size=2, token=first.next_page_token)
    assert [each.job_id for each in itertools.chain(first.data, second.data)] == made[::-1]
    with pytest.raises(InvalidPageToken):
        shop.see(deliveries.page, other.id, token=first.next_page_token)
    foreign = first.data[0].id
    with pytest.raises(NotFound, match=f"no delivery '{foreign}' to {other.id}"):
        shop.do(deliveries.redeliver, other.id, foreign)


def test_a_spec_may_name_only_enabled_endpoints(shop: Any, add: Add) -> None:
    webhook = add()
    assert shop.see(webhooks.unfit, [URL]) == {}
    assert "Register it" in shop.see(webhooks.unfit, [URL, OTHER_URL])[OTHER_URL]
    shop.sql("UPDATE webhooks SET disabled_reason = 'It answered 410 Gone.'")
    assert f"{webhook.id}:enable" in shop.see(webhooks.unfit, [URL])[URL]


def test_an_endpoint_removed_while_a_job_changes_costs_no_event(shop: Any, add: Add) -> None:
    """Whoever removes waits for the event, or the event is told to nobody; it is never lost."""
    for _ in range(5):
        webhook = add(types=("queued",))
        submitted: list[Any] = []
        thread = threading.Thread(target=lambda seen=submitted: seen.append(shop.submit()))
        thread.start()
        shop.patiently(webhooks.remove, webhook.id)
        thread.join(60)
        assert shop.event_types(submitted[0].id) == ["queued"]
    for row in shop.do(outbox.due, kinds=["webhook"]):
        assert shop.see(deliveries.letter, row.payload["delivery_id"]) is None
