"""Messages reach real receivers, signed, at least once and with one id, and no receiver holds up another."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from distillery.webhooks import NewWebhook
from store import deliveries, leases, webhooks
from store.config import WebhookConfig
from store.deliveries import Letter
from worker.maintenance import Maintenance
from worker.webhooks import Courier, headers, sign

NETWORKS = (ip_network("127.0.0.0/8"),)
EAGER = WebhookConfig(schedule_seconds=(0.0, 0.0, 0.0, 0.0), networks=NETWORKS)
Service = Any


@dataclass
class Receiver:
    """Verifies and counts what it is sent, and answers with these statuses in turn, the last one for ever."""

    statuses: list[int] = field(default_factory=lambda: [200])
    secret: str = ""
    hold: threading.Event = field(default_factory=threading.Event)
    messages: list[dict[str, Any]] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver = self
        self.hold.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.receive(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def receive(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        message = Webhook(self.secret).verify(body, dict(request.headers))
        message_id = request.headers["webhook-id"]
        self.ids.append(message_id)
        self.messages.append(message)
        self.hold.wait(60)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if 200 <= status < 300:
            self.effects[message_id] += 1
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver."""
    receivers: list[Receiver] = []

    def start(*statuses: int) -> Receiver:
        receivers.append(Receiver(list(statuses or [200])))
        return receivers[-1]

    yield start
    for each in receivers:
        each.close()


def register(service: Service, receiver: Receiver, **options: Any) -> str:
    """Registers the receiver for when a job is queued; the endpoint's id."""
    sent = NewWebhook(url=receiver.url, **{"types": ("queued",)} | options)
    with service.database.transaction() as session:
        made = webhooks.register(session, sent, networks=NETWORKS)
    receiver.secret = made.secret
    return made.id


@contextlib.contextmanager
def upkeep(service: Service, config: WebhookConfig = EAGER) -> Iterator[Maintenance]:
    """What a worker runs beside its job."""
    maintenance = Maintenance(service.database, service.artifacts, service.lease, webhooks=config)
    maintenance.start()
    try:
        yield maintenance
    finally:
        maintenance.stop()


def delivered(service: Service, webhook_id: str) -> list[Any]:
    with service.database.read() as session:
        return list(deliveries.page(session, webhook_id).data)


@pytest.mark.parametrize(
    ("secret", "message_id", "timestamp", "body", "signature"),
    [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            '{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            1731705121,
            '{"event_type":"ping","data":{"success":true}}',
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        ),
    ],
)
def test_signatures_are_those_of_the_standard(
    secret: str, message_id: str, timestamp: int, body: str, signature: str
) -> None:
    assert sign(body, message_id=message_id, timestamp=timestamp, secret=secret) == signature
    assert Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp, UTC), body) == signature


def letter(*secrets: str, age: timedelta = timedelta(0), body: str = '{"name":"Füße 🦶"}') -> Letter:
    now = (datetime.now(UTC) - age).timestamp()
    return Letter(id="msg_1", url="https://hooks.example.com/", body=body, secrets=secrets, now=now)


def test_the_official_library_accepts_our_messages_and_no_others() -> None:
    secret, other = webhooks.new_secret(), webhooks.new_secret()
    good = letter(secret)
    assert Webhook(secret).verify(good.body.encode(), headers(good)) == {"name": "Füße 🦶"}
    flipped = bytearray(good.body.encode())
    flipped[-3] ^= 1
    for body, signed, key in [
        (bytes(flipped), headers(good), secret),
        (good.body.encode(), headers(good), other),
        (good.body.encode(), headers(good) | {"webhook-id": "msg_2"}, secret),
        (good.body.encode(), headers(letter(secret, age=timedelta(minutes=6))), secret),
        (good.body.encode(), headers(letter(secret, age=timedelta(minutes=-6))), secret),
    ]:
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, signed)


def test_during_a_rotation_either_key_verifies() -> None:
    new, old = webhooks.new_secret(), webhooks.new_secret()
    signed = headers(letter(new, old))
    assert len(signed["webhook-signature"].split(" ")) == 2
    for key in (new, old):
        assert Webhook(key).verify(letter().body, signed)


def test_a_message_arrives_once_after_three_failures(service: Service, receive: Any) -> None:
    """Row 23: the receiver fails three times, and then takes the message."""
    receiver = receive(500, 500, 500, 200)
    webhook_id = register(service, receiver)
    job_id = service.submit()
    with upkeep(service):
        service.until(lambda: receiver.effects)
        service.until(lambda: delivered(service, webhook_id)[0].status == "delivered")
    (delivery,) = delivered(service, webhook_id)
    assert receiver.effects == Counter({delivery.id: 1})
    assert receiver.ids == [delivery.id] * 4
    assert [each.status_code for each in delivery.tries] == [500, 500, 500, 200]
    assert [each.error for each in delivery.tries] == ["The receiver answered 500."] * 3 + [None]
    assert {message["type"] for message in receiver.messages} == {"job.queued"}
    assert {message["data"]["job_id"] for message in receiver.messages} == {job_id}


def test_an_endpoint_that_never_takes_a_message_is_disabled_and_the_job_says_so(
    service: Service, receive: Any, unused_port: Callable[[], int]
) -> None:
    receiver = receive(302)
    webhook_id = register(service, receiver)
    job_id = service.submit()
    with upkeep(service):
        service.until(lambda: service.events(job_id, "webhook_disabled"))
    (delivery,) = delivered(service, webhook_id)
    assert (delivery.status, len(delivery.tries)) == ("failed", 5)
    assert delivery.tries[0].error == "The receiver answered 302. A redirect is not followed."
    with service.database.read() as session:
        assert "did not arrive in 5 tries" in str(webhooks.get(session, webhook_id).disabled_reason)


def test_a_whole_job_is_told_from_start_to_end(embedded: Service, receive: Any) -> None:
    receiver = receive(200)
    register(embedded, receiver, types=("queued", "started", "succeeded"))
    job_id = embedded.submit()
    with upkeep(embedded):
        assert embedded.run_one()
        embedded.until(lambda: len(receiver.messages) == 3)
    in_order = sorted(receiver.messages, key=lambda message: message["data"]["seq"])
    assert [message["type"] for message in in_order] == ["job.queued", "job.started", "job.succeeded"]
    assert embedded.job(job_id).status == in_order[-1]["data"]["status"] == "succeeded"


def test_a_slow_receiver_holds_up_neither_other_receivers_nor_the_reaper(embedded: Service, receive: Any) -> None:
    slow, quick = receive(200), receive(200)
    slow.hold.clear()
    register(embedded, slow)
    for _ in range(12):
        embedded.submit()
    register(embedded, quick)
    embedded.submit()
    with embedded.database.transaction() as session:
        claim = leases.claim(session, worker="it dies", queues=("default",), lease_seconds=0.05)
    with upkeep(embedded):
        embedded.until(lambda: quick.effects)
        embedded.until(lambda: embedded.job(claim.id).status == "queued")
        assert not slow.effects
        assert len(slow.ids) == 2
        slow.hold.set()
        embedded.until(lambda: len(slow.effects) == 13)
    assert max(slow.effects.values()) == 1


def test_several_workers_send_each_message_once(service: Service, receive: Any) -> None:
    receiver = receive(200)
    webhook_id = register(service, receiver)
    for _ in range(15):
        service.submit()
    with upkeep(service), upkeep(service), upkeep(service):
        service.until(lambda: {each.status for each in delivered(service, webhook_id)} == {"delivered"})
    assert len(receiver.effects) == 15
    assert set(receiver.effects.values()) == {1}


def test_a_worker_that_dies_before_writing_it_down_sends_again_with_the_same_id(service: Service, receive: Any) -> None:
    receiver = receive(200)
    webhook_id = register(service, receiver)
    service.submit()
    with service.database.transaction() as session:
        (row,) = deliveries.take(session, limit=1)
    with service.database.read() as session:
        found = deliveries.letter(session, row.payload["delivery_id"])
    courier = Courier(service.database, EAGER)
    courier._try(found)  # sent, and then the worker was no more
    with service.database.transaction() as session:
        assert deliveries.take(session, limit=1) == []
    courier.deliver(row)
    assert receiver.ids == [row.payload["delivery_id"]] * 2
    assert [each.status for each in delivered(service, webhook_id)] == ["delivered"]


def test_a_private_receiver_is_not_spoken_to_unless_the_operator_allows_it(service: Service, receive: Any) -> None:
    receiver = receive(200)
    webhook_id = register(service, receiver)
    service.submit()
    with service.database.transaction() as session:
        (row,) = deliveries.take(session, limit=1)
    Courier(service.database, WebhookConfig()).deliver(row)
    (delivery,) = delivered(service, webhook_id)
    assert (delivery.status, receiver.ids) == ("waiting", [])
    assert "begins with 'http'" in delivery.tries[0].error


def test_the_receiver_of_the_documentation_works(embedded: Service, unused_port: Callable[[], int]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    port = unused_port()
    sent = NewWebhook(url=f"http://127.0.0.1:{port}/", types=("queued",))
    with embedded.database.transaction() as session:
        made = webhooks.register(session, sent, networks=NETWORKS)
    environment = os.environ | {"WEBHOOK_SECRET": made.secret, "PORT": str(port)}
    command = [sys.executable, "-c", program]
    with (
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
        upkeep(embedded, WebhookConfig(schedule_seconds=(0.2,) * 200, networks=NETWORKS)),
    ):
        job_id = embedded.submit()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"job.queued {job_id}\n"
            embedded.until(lambda: delivered(embedded, made.id)[0].status == "delivered")
        finally:
            process.kill()
    assert delivered(embedded, made.id)[0].tries[-1].status_code == 204
