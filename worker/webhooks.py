"""Brings webhook messages to their endpoints, signed as Standard Webhooks says, a few at a time.

A message may arrive twice (a worker may die between sending it and writing that down), always with the same id.
"""

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property

from distillery.errors import DistilleryError
from store import deliveries, outbox
from store.config import WebhookConfig
from store.db import Database
from store.deliveries import Attempted, Letter
from store.outbox import OutboxRow
from worker.egress import Egress

_AT_ONCE = 8
_AT_ONCE_TO_ONE = 2
"""So that a receiver that takes its time does not hold up the messages to all others."""
_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 12.0
_log = logging.getLogger(__name__)


def headers(letter: Letter) -> dict[str, str]:
    """What goes with the body of a message: its id, the time of this try, and a signature by each key."""
    timestamp = int(letter.now)
    signatures = (sign(letter.body, message_id=letter.id, timestamp=timestamp, secret=key) for key in letter.secrets)
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Distillery-Webhooks",
        "webhook-id": letter.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def sign(body: str, *, message_id: str, timestamp: int, secret: str) -> str:
    """The signature of a message, as Standard Webhooks defines it. `secret` begins with `whsec_`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


@dataclass
class Courier:
    """A thread that hands messages that are due to a small pool of others. Failures are logged and tried again."""

    database: Database
    config: WebhookConfig
    egress: Egress | None = None
    """None: as `config` says."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the tries in progress."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_FAREWELL_SECONDS)

    def _run(self) -> None:
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as pool:
            while not self._stop.is_set():
                for row in self._due(Counter(running.values())):
                    running[pool.submit(self.deliver, row)] = row.payload["webhook_id"]
                if running:
                    ended = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED).done
                    running = {future: endpoint for future, endpoint in running.items() if future not in ended}
                else:
                    self._stop.wait(_POLL_SECONDS)

    def _due(self, running: Counter[str]) -> list[OutboxRow]:
        """As many messages as there are threads free. `running` counts those under way, by endpoint."""
        taken: list[OutboxRow] = []
        try:
            while running.total() < _AT_ONCE:
                busy = [endpoint for endpoint, number in running.items() if number >= _AT_ONCE_TO_ONE]
                with self.database.transaction() as session:
                    found = deliveries.take(session, limit=1, busy=busy)
                if not found:
                    break
                taken += found
                running[found[0].payload["webhook_id"]] += 1
        except DistilleryError as error:
            _log.warning("Webhook messages are taken up later. %s", error)
        except Exception:  # a fault of ours must not end the deliveries to everyone
            _log.exception("Webhook messages cannot be taken up; that is tried again.")
        return taken

    def deliver(self, row: OutboxRow) -> None:
        """Try once to bring a message to its endpoint, and write down what became of it."""
        try:
            with self.database.read() as session:
                letter = deliveries.letter(session, row.payload["delivery_id"])
            tried = self._try(letter) if letter is not None else None
            with self.database.transaction() as session:
                if tried is None:
                    outbox.done(session, row.id)
                else:
                    deliveries.record_try(session, row, tried, schedule_seconds=self.config.schedule_seconds)
        except DistilleryError as error:  # the row shows up again
            _log.warning("A webhook message is tried again. %s", error)
        except Exception:
            _log.exception("A webhook message could not be handled and is tried again.")

    def _try(self, letter: Letter) -> Attempted:
        began = time.monotonic()
        status, error = None, None
        try:
            status = self._egress.post(letter.url, headers=headers(letter), body=letter.body.encode())
        except DistilleryError as failure:
            error = failure.detail
        if status is not None and not 200 <= status < 300:
            followed = " A redirect is not followed." if 300 <= status < 400 else ""
            error = f"The receiver answered {status}.{followed}"
        return Attempted(seconds=round(time.monotonic() - began, 3), status_code=status, error=error)

    @cached_property
    def _egress(self) -> Egress:
        return self.egress or Egress(seconds=self.config.try_seconds, networks=self.config.networks)
