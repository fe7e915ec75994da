"""Holds a claim: a thread renews the lease, brings word of a cancel, and knows when the claim is no longer ours."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from distillery.errors import DistilleryError, Fenced
from distillery.views import Progress
from store import leases
from store.config import LeaseConfig
from store.db import Database
from store.leases import Claim

_TRUSTED_SHARE = 0.75
"""Without a renewal for this share of the lease we stop, well before anyone else may begin."""
_SECONDS_BETWEEN_BEATS = 1.0
_GUARD_SECONDS = 0.1
_FAREWELL_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Silent(Fenced):
    """The lease could not be renewed for so long that another attempt might own the job."""


class Lease:
    """Renews the lease of `claim` for as long as the `with` block lasts.

    Args:
        config: how long a lease is and how often it is renewed, seconds.
        claimed_at: `time.monotonic()` from before the claim: the lease is at least that old.
    """

    def __init__(self, database: Database, claim: Claim, *, config: LeaseConfig, claimed_at: float) -> None:
        self._database = database
        self._claim = claim
        self._config = config
        self._renewed_at = claimed_at
        self._pace = min(_SECONDS_BETWEEN_BEATS, config.heartbeat_seconds)
        self._fenced: Fenced | None = None
        self.news: tuple[int, Progress] | None = None
        """Step and progress as last told."""
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.id}", daemon=True)
        self.wish: leases.Wish = "go on"
        """What the job's user wants, as of the last beat."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._wake.set()
        self._thread.join(_FAREWELL_SECONDS)

    def tell(self, step: int, progress: Progress) -> None:
        """Send this with the next beat, which comes at once unless there was one within the last second."""
        self.news = (step, progress)
        self._wake.set()

    def check(self) -> None:
        """Do nothing while the claim is surely ours.

        Raises:
            Fenced: another attempt owns the job, or the database was out of reach for so long that one might.
        """
        if self._fenced is not None:
            raise self._fenced
        silent = time.monotonic() - self._renewed_at
        if silent > _TRUSTED_SHARE * self._config.lease_seconds:
            raise Silent(
                f"The lease of {self._claim.id} could not be renewed for {silent:.1f} s: another worker may go on "
                f"with the job, so attempt {self._claim.attempt} stops."
            )

    @contextmanager
    def guard(self, kill: Callable[[], None]) -> Iterator[None]:
        """Call `kill` once the claim is not surely ours, and end the wait for a database that never answers: a
        connection that is open and silent holds whoever speaks to it."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_GUARD_SECONDS):
                try:
                    self.check()
                except Fenced:
                    kill()
                    self._database.hang_up()
                    return

        thread = threading.Thread(target=watch, name=f"guard-{self._claim.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def refused(self) -> bool:
        """Whether the store refused a beat: the job has ended, or another attempt owns it."""
        return self._fenced is not None

    def beat_in(self, session: Any) -> leases.Wish:
        """Renew within a transaction and tell the latest step; what the job's user wants.

        Raises:
            Fenced: another attempt owns the job.
        """
        step, progress = self.news or (None, None)
        return leases.beat(session, self._claim, lease_seconds=self._config.lease_seconds, step=step, progress=progress)

    def _keep(self) -> None:
        while not self._closed.is_set() and self._fenced is None:
            self._wake.wait(self._config.heartbeat_seconds)
            self._wake.clear()
            if not self._closed.is_set():
                self._beat()
                self._closed.wait(self._pace)

    def _beat(self) -> None:
        began = time.monotonic()
        try:
            with self._database.transaction() as session:
                wish = self.beat_in(session)
        except Fenced as error:
            self._fenced = error
        except DistilleryError as error:  # away, or its disk is full
            _log.warning("The lease of %s was not renewed: %s", self._claim.id, error)
            self._wake.set()
        else:
            self._renewed_at = began
            self.wish = wish
