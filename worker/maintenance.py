"""What any worker does for all: gives back jobs of dead workers, does what the outbox holds, sweeps what is left over.

Each step is safe to do twice and in several processes at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distillery.errors import DistilleryError
from store import deliveries, idempotency, leases, orphans, outbox, preflights, uploads
from store.artifacts import Artifacts
from store.config import LeaseConfig, WebhookConfig
from store.db import Database
from store.outbox import Kind, OutboxRow
from worker.queue import enqueue, hints_waiting
from worker.webhooks import Courier

_RELAY_SECONDS = 1.0
_SWEEP_SECONDS = 3600.0
_RETRY_SECONDS = 5.0
_REHINT_AFTER_REAPS = 3
_ROWS = 100
_MOST_HINTS = 1000
"""Of one queue in the broker. Jobs that wait for days are hinted at again and again, and memory is finite."""
_FAREWELL_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass
class Maintenance:
    """Threads with database connections of their own. Failures are logged and tried again."""

    database: Database
    artifacts: Artifacts
    lease: LeaseConfig
    redis_url: str | None = None
    webhooks: WebhookConfig = field(default_factory=WebhookConfig.from_environment)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _courier: Courier | None = None

    def start(self) -> None:
        """Begin."""
        reaper = self.lease.reaper_seconds
        urgent = [
            (min(_RELAY_SECONDS, reaper), self.relay),
            (reaper, self.reap),
            (reaper * _REHINT_AFTER_REAPS, self.rehint),
        ]
        patient = [(min(_RELAY_SECONDS, reaper), self.delete), (_SWEEP_SECONDS, self.sweep)]
        # Threads of their own for what may take long: a slow receiver, or a million files, must keep nobody's job from
        # being given back.
        for name, every in (("maintenance", urgent), ("sweeper", patient)):
            thread = threading.Thread(target=self._run, args=(every,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._courier = Courier(self.database, self.webhooks)
        self._courier.start()

    def stop(self) -> None:
        """End after the step in progress."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_FAREWELL_SECONDS)
        if self._courier is not None:
            self._courier.stop()

    def _run(self, every: Sequence[tuple[float, Callable[[], None]]]) -> None:
        due = [time.monotonic()] * len(every)
        while not self._stop.wait(max(0.0, min(due) - time.monotonic())):
            for place, (seconds, step) in enumerate(every):
                if time.monotonic() >= due[place]:
                    _survived(step)
                    due[place] = time.monotonic() + seconds

    def reap(self) -> None:
        """Take jobs whose lease is over from their workers."""
        with self.database.transaction() as session:
            for job_id in leases.reap(session, lease=self.lease):
                _log.warning("%s: its worker was not heard of for a whole lease.", job_id)

    def rehint(self) -> None:
        """Write hints anew for rows that wait although they were hinted: a broker may lose all it holds."""
        with self.database.transaction() as session:
            outbox.rehint(session, older_than_seconds=self.lease.reaper_seconds * _REHINT_AFTER_REAPS)

    def sweep(self) -> None:
        """Delete files that no row names and nobody can commit any more; forget old requests and webhook messages."""
        if gone := orphans.sweep(self.database, self.artifacts):
            _log.info("%d files that nothing named were deleted, such as %s.", len(gone), gone[0])
        with self.database.transaction() as session:
            idempotency.sweep(session)
            deliveries.sweep(session)
            uploads.sweep(session)
            preflights.sweep(session)

    def relay(self) -> None:
        """Send the hints that are due. A row is removed after it was done: it may be done twice and is never lost."""
        self._relay("hint", self._hint)

    def delete(self) -> None:
        """Delete the files that were let go, in the same way."""
        self._relay("delete", self._delete)

    def _relay(self, kind: Kind, act: Callable[[OutboxRow], None]) -> None:
        with self.database.transaction() as session:
            rows = outbox.due(session, kinds=(kind,), limit=_ROWS)
        for place, row in enumerate(rows):
            try:
                act(row)
            except DistilleryError as error:
                _log.warning("%d outbox rows (%s) are tried again. %s", len(rows) - place, kind, error)
                self._put_off(rows[place:])  # the others would wait for the same service
                return
            with self.database.transaction() as session:
                outbox.done(session, row.id)

    def _put_off(self, rows: list[OutboxRow]) -> None:
        with self.database.transaction() as session:
            for row in rows:
                outbox.retry(session, row.id, seconds=_RETRY_SECONDS)

    def _hint(self, row: OutboxRow) -> None:
        queue = row.payload["queue"]
        # A hint says that there is work, not which, so beyond so many another one adds nothing.
        if hints_waiting(queue, redis_url=self.redis_url) < _MOST_HINTS:
            enqueue(row.payload["job_id"], queue=queue, redis_url=self.redis_url)

    def _delete(self, row: OutboxRow) -> None:
        self.artifacts.delete(row.payload["key"])


def _survived(step: Callable[[], None]) -> None:
    try:
        step()
    except DistilleryError as error:
        _log.warning("Maintenance is tried again: %s", error)
    except Exception:  # a fault of ours in one step must not end the reaping of everyone's jobs
        _log.exception("Maintenance failed in %s and is tried again.", step.__name__)
