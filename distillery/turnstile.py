"""How many requests, and how many of their bytes, are inside at once; who comes when it is full is sent away."""

from collections.abc import Iterator
from contextlib import contextmanager

from distillery.errors import TooBusy


class Turnstile:
    """Counts who is inside."""

    def __init__(self, *, requests: int, bytes_: int) -> None:
        self._most_requests, self._most_bytes = requests, bytes_
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def place(self, size_bytes: int, *, retry_after_seconds: int = 1) -> Iterator[None]:
        """Be inside for the length of the block.

        Raises:
            TooBusy: there is no room.
        """
        if self.requests >= self._most_requests or self.bytes + size_bytes > self._most_bytes:
            raise TooBusy(
                f"{self.requests} predictions with {self.bytes:,} bytes are under way already.",
                retry_after_seconds=retry_after_seconds,
                hint="Ask again when the time in Retry-After is over, and send fewer requests at a time.",
            )
        self.requests += 1
        self.bytes += size_bytes
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size_bytes
