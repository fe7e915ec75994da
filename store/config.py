"""What the store needs to know: where state and files lie, and how long a worker's word holds."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from distillery.errors import InvalidRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
QUOTA_BYTES = 100 << 30
LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 10.0
REAPER_SECONDS = 10.0
SAVE_BUDGET_SECONDS = 25.0
MAX_STALLED_CRASHES = 3
BACKOFF_SECONDS = (10.0, 60.0, 300.0)
STALL_SECONDS = 300.0
SPACE_WAIT_SECONDS = 60.0
WEBHOOK_SCHEDULE_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
WEBHOOK_TRY_SECONDS = 10.0


@dataclass(frozen=True)
class StoreConfig:
    """Addresses of the database, the artifact store and, where there is one, the broker."""

    database_url: str
    """`sqlite:///path`, a bare path, or `postgresql://…`."""
    artifacts_url: str
    """A folder, `file:///folder`, or `s3://bucket/prefix`."""
    redis_url: str | None = None
    quota_bytes: int = QUOTA_BYTES
    """What users bring and jobs deliver may take so much in all; checkpoints are not counted."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_DATABASE_URL, DISTILLERY_ARTIFACTS, DISTILLERY_REDIS_URL and DISTILLERY_QUOTA_BYTES; the last
        two are optional.

        Raises:
            InvalidRequest: one of the first two is not set, or the quota is no number.
        """
        given = os.environ if environment is None else environment
        return cls(
            database_url=_required(given, "DISTILLERY_DATABASE_URL", example="sqlite:///distillery.db"),
            artifacts_url=_required(given, "DISTILLERY_ARTIFACTS", example="./artifacts or s3://bucket/prefix"),
            redis_url=given.get("DISTILLERY_REDIS_URL") or None,
            quota_bytes=_count(given, "DISTILLERY_QUOTA_BYTES", default=QUOTA_BYTES),
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
    stall_seconds: float = STALL_SECONDS
    """A trainer that takes no step for this long, and for ten times as long as its steps usually take, is frozen."""
    space_wait_seconds: float = SPACE_WAIT_SECONDS
    """Wait before a job that met a full disk is tried again."""

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidRequest: a length of time that is not above 0, or a lease that one late heartbeat would lose.
        """
        lengths = {
            "lease": self.lease_seconds, "heartbeat": self.heartbeat_seconds, "reaper": self.reaper_seconds,
            "save budget": self.save_budget_seconds, "stall": self.stall_seconds,
            "wait for space": self.space_wait_seconds,
        }  # fmt: skip
        for name, length in lengths.items():
            if not 0 < length < float("inf"):
                raise InvalidRequest(f"The {name} must be above 0 seconds; got {length:g}.")
        if self.max_stalled_crashes < 1:
            raise InvalidRequest(f"A job ends after 1 or more crashes in a row; got {self.max_stalled_crashes}.")
        if self.heartbeat_seconds >= self.lease_seconds:
            raise InvalidRequest(
                f"A heartbeat every {self.heartbeat_seconds:g} s cannot keep a lease of {self.lease_seconds:g} s.",
                hint="Make DISTILLERY_LEASE_SECONDS several times DISTILLERY_HEARTBEAT_SECONDS.",
            )
        if not self.backoff_seconds or not all(0 <= wait < float("inf") for wait in self.backoff_seconds):
            raise InvalidRequest(f"The back-off needs at least one wait of 0 s or more; got {self.backoff_seconds}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_LEASE_SECONDS, _HEARTBEAT_SECONDS, _REAPER_SECONDS, _SAVE_BUDGET_SECONDS, _BACKOFF_SECONDS,
        _STALL_SECONDS, _SPACE_WAIT_SECONDS and DISTILLERY_MAX_STALLED_CRASHES.

        Raises:
            InvalidRequest: one of them is not a number, or they do not fit together.
        """
        given = os.environ if environment is None else environment
        return cls(
            lease_seconds=_seconds(given, "DISTILLERY_LEASE_SECONDS", default=LEASE_SECONDS),
            heartbeat_seconds=_seconds(given, "DISTILLERY_HEARTBEAT_SECONDS", default=HEARTBEAT_SECONDS),
            reaper_seconds=_seconds(given, "DISTILLERY_REAPER_SECONDS", default=REAPER_SECONDS),
            save_budget_seconds=_seconds(given, "DISTILLERY_SAVE_BUDGET_SECONDS", default=SAVE_BUDGET_SECONDS),
            max_stalled_crashes=_count(given, "DISTILLERY_MAX_STALLED_CRASHES", default=MAX_STALLED_CRASHES),
            backoff_seconds=_waits(given, "DISTILLERY_BACKOFF_SECONDS", default=BACKOFF_SECONDS),
            stall_seconds=_seconds(given, "DISTILLERY_STALL_SECONDS", default=STALL_SECONDS),
            space_wait_seconds=_seconds(given, "DISTILLERY_SPACE_WAIT_SECONDS", default=SPACE_WAIT_SECONDS),
        )


@dataclass(frozen=True)
class WebhookConfig:
    """When a webhook message is tried again, how long a try may take, and where else than in public it may go."""

    schedule_seconds: tuple[float, ...] = WEBHOOK_SCHEDULE_SECONDS
    """Wait before the second, third, … try; after the last of them the endpoint is disabled."""
    try_seconds: float = WEBHOOK_TRY_SECONDS
    """For looking the name up, connecting, sending and reading the answer, all together."""
    networks: tuple[Network, ...] = ()
    """Receivers in them may have private addresses, plain http, and any port."""

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidRequest: a wait below 0, or a try that lasts so long that another worker would begin the next one.
        """
        if not all(0 <= wait < float("inf") for wait in self.schedule_seconds):
            raise InvalidRequest(f"The waits between tries must be 0 s or more; got {self.schedule_seconds}.")
        if not 0 < self.try_seconds <= _LONGEST_TRY_SECONDS:
            raise InvalidRequest(
                f"A try to bring a webhook message takes {self.try_seconds:g} s.",
                hint=f"Make DISTILLERY_WEBHOOK_TRY_SECONDS more than 0 and at most {_LONGEST_TRY_SECONDS:g}.",
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_WEBHOOK_SCHEDULE_SECONDS, _TRY_SECONDS and _NETWORKS (such as 10.0.0.0/8,fd00::/8).

        Raises:
            InvalidRequest: one of them cannot be read.
        """
        given = os.environ if environment is None else environment
        return cls(
            schedule_seconds=_waits(given, "DISTILLERY_WEBHOOK_SCHEDULE_SECONDS", default=WEBHOOK_SCHEDULE_SECONDS),
            try_seconds=_seconds(given, "DISTILLERY_WEBHOOK_TRY_SECONDS", default=WEBHOOK_TRY_SECONDS),
            networks=_networks(given, "DISTILLERY_WEBHOOK_NETWORKS"),
        )


_LONGEST_TRY_SECONDS = 20.0
"""A message is handed to another worker 30 s after it was handed out."""


def _networks(given: Mapping[str, str], name: str) -> tuple[Network, ...]:
    text = given.get(name, "").strip()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidRequest(f"{name} cannot be read: {error}.", hint="Try 10.0.0.0/8,fd00::/8.") from None


def _required(given: Mapping[str, str], name: str, *, example: str) -> str:
    value = given.get(name, "").strip()
    if not value:
        raise InvalidRequest(f"{name} is not set.", hint=f"Set it, for instance to {example}.")
    return value


def _count(given: Mapping[str, str], name: str, *, default: int) -> int:
    text = given.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InvalidRequest(f"{name} is '{text}', which is not a whole number.", hint=f"Try {default}.")
    return int(text)


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
