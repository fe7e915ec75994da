"""What the store needs to know: where state and files lie, and how long a worker's word holds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from distillery.errors import InvalidRequest

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 10.0
REAPER_SECONDS = 10.0
SAVE_BUDGET_SECONDS = 20.0
MAX_STALLED_CRASHES = 3
BACKOFF_SECONDS = (10.0, 60.0, 300.0)


@dataclass(frozen=True)
class StoreConfig:
    """Addresses of the database, the artifact store and, where there is one, the broker."""

    database_url: str
    """`sqlite:///path`, a bare path, or `postgresql://…`."""
    artifacts_url: str
    """A folder, `file:///folder`, or `s3://bucket/prefix`."""
    redis_url: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_DATABASE_URL, DISTILLERY_ARTIFACTS and DISTILLERY_REDIS_URL (optional).

        Raises:
            InvalidRequest: one of the first two is not set.
        """
        given = os.environ if environment is None else environment
        return cls(
            database_url=_required(given, "DISTILLERY_DATABASE_URL", example="sqlite:///distillery.db"),
            artifacts_url=_required(given, "DISTILLERY_ARTIFACTS", example="./artifacts or s3://bucket/prefix"),
            redis_url=given.get("DISTILLERY_REDIS_URL") or None,
        )


@dataclass(frozen=True)
class LeaseConfig:
    """How long a claim holds without a heartbeat, and what happens when its worker dies. All in seconds."""

    lease_seconds: float = LEASE_SECONDS
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    reaper_seconds: float = REAPER_SECONDS
    save_budget_seconds: float = SAVE_BUDGET_SECONDS
    """Time a trainer has between SIGTERM and SIGKILL to save."""
    max_stalled_crashes: int = MAX_STALLED_CRASHES
    """So many crashes in a row without a step further, and the job ends as `crashed`."""
    backoff_seconds: tuple[float, ...] = BACKOFF_SECONDS
    """Wait before the second, third, … try; the last one holds for all that follow."""

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidRequest: a length of time that is not above 0, or a lease that one late heartbeat would lose.
        """
        lengths = (self.lease_seconds, self.heartbeat_seconds, self.reaper_seconds, self.save_budget_seconds)
        if not all(0 < length < float("inf") for length in lengths):
            raise InvalidRequest(f"Lease, heartbeat, reaper and save budget must be above 0 seconds; got {lengths}.")
        if self.heartbeat_seconds >= self.lease_seconds:
            raise InvalidRequest(
                f"A heartbeat every {self.heartbeat_seconds:g} s cannot keep a lease of {self.lease_seconds:g} s.",
                hint="Make DISTILLERY_LEASE_SECONDS several times DISTILLERY_HEARTBEAT_SECONDS.",
            )
        if not self.backoff_seconds or not all(0 <= wait < float("inf") for wait in self.backoff_seconds):
            raise InvalidRequest(f"The back-off needs at least one wait of 0 s or more; got {self.backoff_seconds}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_LEASE_SECONDS, _HEARTBEAT_SECONDS, _REAPER_SECONDS, _SAVE_BUDGET_SECONDS, _BACKOFF_SECONDS.

        Raises:
            InvalidRequest: one of them is not a number, or they do not fit together.
        """
        given = os.environ if environment is None else environment
        return cls(
            lease_seconds=_seconds(given, "DISTILLERY_LEASE_SECONDS", default=LEASE_SECONDS),
            heartbeat_seconds=_seconds(given, "DISTILLERY_HEARTBEAT_SECONDS", default=HEARTBEAT_SECONDS),
            reaper_seconds=_seconds(given, "DISTILLERY_REAPER_SECONDS", default=REAPER_SECONDS),
            save_budget_seconds=_seconds(given, "DISTILLERY_SAVE_BUDGET_SECONDS", default=SAVE_BUDGET_SECONDS),
            backoff_seconds=_waits(given, "DISTILLERY_BACKOFF_SECONDS", default=BACKOFF_SECONDS),
        )


def _required(given: Mapping[str, str], name: str, *, example: str) -> str:
    value = given.get(name, "").strip()
    if not value:
        raise InvalidRequest(f"{name} is not set.", hint=f"Set it, for instance to {example}.")
    return value


def _seconds(given: Mapping[str, str], name: str, *, default: float) -> float:
    return _waits(given, name, default=(default,))[0]


def _waits(given: Mapping[str, str], name: str, *, default: tuple[float, ...]) -> tuple[float, ...]:
    text = given.get(name, "").strip()
    if not text:
        return default
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(f"{name} is '{text}', which is not a number of seconds.", hint="Try 10.") from None
