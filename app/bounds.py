"""How much of the service one client may take: every number, its default, and the environment variable that sets it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from distillery.errors import InvalidRequest

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 15.0
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 64 << 10
UNREAD_SECONDS = 30.0
STOP_SECONDS = 5.0
MAX_CONNECTIONS = 256
REQUESTS_PER_KEY = 16
STREAMS_PER_KEY = 64
TURN_SECONDS = 5.0
PREDICTIONS = 64
PREDICTION_SECONDS = 60.0


@dataclass(frozen=True)
class Bounds:
    """Deadlines in seconds, sizes in bytes, and how many of a kind there may be at once."""

    head_seconds: float = HEAD_SECONDS
    """Within which a request's head must be whole, counted from the connection or from the head's first byte."""
    head_bytes: int = HEAD_BYTES
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    """How long a connection may rest between two requests."""
    body_seconds: float = BODY_SECONDS
    """Within which a JSON body must be whole; any other body must keep up the rate below from then on."""
    body_bytes_per_second: int = BODY_BYTES_PER_SECOND
    """On average since the head."""
    unread_seconds: float = UNREAD_SECONDS
    """Who takes nothing of an answer for so long is cut off."""
    stop_seconds: float = STOP_SECONDS
    """What running requests are given when the service stops."""
    connections: int = MAX_CONNECTIONS
    requests_per_key: int = REQUESTS_PER_KEY
    """Requests of one key at work at once; 0 is no limit."""
    requests_per_address: int = 0
    """The same for one client address, where no key is asked for. 0 is no limit, because behind a proxy all clients
    share one address."""
    streams_per_key: int = STREAMS_PER_KEY
    """Event streams and long polls of one key (or address) at once: they wait rather than work; 0 is no limit."""
    turn_seconds: float = TURN_SECONDS
    """How long a request above the limit waits for its turn before it is refused."""
    predictions: int = PREDICTIONS
    """Predictions of all clients that are under way at once."""
    prediction_seconds: float = PREDICTION_SECONDS
    """Within which an inference worker must have answered, the loading of a network included."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the variables of `VARIABLES`; those that are not set keep their defaults.

        Raises:
            InvalidRequest: one of them is no number, or one that cannot be meant.
        """
        given = os.environ if environment is None else environment
        named = {name: field for name, field in VARIABLES.items() if given.get(name, "").strip()}
        values: dict[str, Any] = {field: _number(given, name, field) for name, field in named.items()}
        return cls(**values)


VARIABLES: Mapping[str, str] = {
    "DISTILLERY_HEAD_SECONDS": "head_seconds",
    "DISTILLERY_HEAD_BYTES": "head_bytes",
    "DISTILLERY_KEEP_ALIVE_SECONDS": "keep_alive_seconds",
    "DISTILLERY_BODY_SECONDS": "body_seconds",
    "DISTILLERY_BODY_BYTES_PER_SECOND": "body_bytes_per_second",
    "DISTILLERY_UNREAD_SECONDS": "unread_seconds",
    "DISTILLERY_STOP_SECONDS": "stop_seconds",
    "DISTILLERY_MAX_CONNECTIONS": "connections",
    "DISTILLERY_REQUESTS_PER_KEY": "requests_per_key",
    "DISTILLERY_REQUESTS_PER_ADDRESS": "requests_per_address",
    "DISTILLERY_STREAMS_PER_KEY": "streams_per_key",
    "DISTILLERY_TURN_SECONDS": "turn_seconds",
    "DISTILLERY_PREDICTIONS": "predictions",
    "DISTILLERY_PREDICTION_SECONDS": "prediction_seconds",
}
_MAY_BE_ZERO = frozenset({"requests_per_key", "requests_per_address", "streams_per_key", "turn_seconds"})


def _number(given: Mapping[str, str], name: str, field: str) -> float | int:
    text = given[name].strip()
    whole = not field.endswith("_seconds")
    default = getattr(Bounds, field)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number of seconds"
        raise InvalidRequest(f"{name} is '{text}', which is not {kind}.", hint=f"Try {default:g}.") from None
    least = "0 or more" if field in _MAY_BE_ZERO else "above 0"
    if not isfinite(value) or value < 0 or (value == 0 and field not in _MAY_BE_ZERO):
        raise InvalidRequest(f"{name} is {text}; it must be {least}.", hint=f"Leave it out for {default:g}.")
    return value
