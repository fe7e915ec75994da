"""What an inference worker may use: every number, its default, and the environment variable that sets it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from distillery.errors import InvalidRequest
from distillery.predictions import MOST_IMAGES
from engine.cores import default_threads

MEMORY_BYTES = 2 << 30
WAITING_IMAGES = 256
REQUESTS = 64
HEARTBEAT_SECONDS = 2.0
BEATS_MISSED = 5
"""So many heartbeats may fail to come before a worker counts as gone."""


@dataclass(frozen=True)
class InferenceConfig:
    """Where it listens, and the most of everything."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    address: str = ""
    """The host by which the API reaches it; empty: the one it listens on, or where that is every one, this machine's
    own."""
    memory_bytes: int = MEMORY_BYTES
    """The files of all loaded networks together; what runs them takes about as much again, and a batch its own."""
    batch: int = MOST_IMAGES
    """Images that are computed together."""
    waiting_images: int = WAITING_IMAGES
    """Images that may wait for one network."""
    requests: int = REQUESTS
    """Requests that are worked on or wait."""
    threads: int = 1
    """That compute one batch."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidRequest: a bound that would let nothing through.
        """
        for name, value, least, most in (
            ("DISTILLERY_INFERENCE_MEMORY", self.memory_bytes, 1, None),
            ("DISTILLERY_INFERENCE_BATCH", self.batch, 1, MOST_IMAGES),
            ("DISTILLERY_INFERENCE_WAITING", self.waiting_images, MOST_IMAGES, None),
            ("DISTILLERY_INFERENCE_REQUESTS", self.requests, 1, None),
            ("DISTILLERY_INFERENCE_THREADS", self.threads, 1, None),
            ("DISTILLERY_INFERENCE_PORT", self.port, 0, 65535),
        ):
            if value < least or (most is not None and value > most):
                span = f"at least {least}" if most is None else f"from {least} to {most}"
                raise InvalidRequest(f"{name} is {value}.", hint=f"Make it {span}.")

    @property
    def alive_seconds(self) -> float:
        """How long a heartbeat holds."""
        return self.heartbeat_seconds * BEATS_MISSED

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_INFERENCE_HOST, _PORT, _ADDRESS, _MEMORY (bytes), _BATCH, _WAITING, _REQUESTS and _THREADS.

        Raises:
            InvalidRequest: one of them is no number, or one that cannot be meant.
        """
        given = os.environ if environment is None else environment
        return cls(
            host=given.get("DISTILLERY_INFERENCE_HOST", "").strip() or cls.host,
            address=given.get("DISTILLERY_INFERENCE_ADDRESS", "").strip(),
            port=_number(given, "DISTILLERY_INFERENCE_PORT", cls.port),
            memory_bytes=_number(given, "DISTILLERY_INFERENCE_MEMORY", cls.memory_bytes),
            batch=_number(given, "DISTILLERY_INFERENCE_BATCH", cls.batch),
            waiting_images=_number(given, "DISTILLERY_INFERENCE_WAITING", cls.waiting_images),
            requests=_number(given, "DISTILLERY_INFERENCE_REQUESTS", cls.requests),
            threads=_number(given, "DISTILLERY_INFERENCE_THREADS", default_threads()),
        )


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InvalidRequest(f"{name} is '{text}', which is not a whole number.", hint=f"Try {default}.")
    return int(text)
