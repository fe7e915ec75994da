"""Dynamic batching: one batch is computed at a time, and what comes meanwhile makes up the next one.

Nothing is held back to wait for company: a request that finds nobody before it is computed at once and alone. Networks
take turns. Everything happens on the event loop but the computing itself, so that nothing here needs a lock.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from distillery.errors import TooBusy

LONGEST_RETRY_SECONDS = 60
_NEWEST_SHARE = 0.3
"""What the latest batch counts for in the rate."""
W = TypeVar("W")
A = TypeVar("A")


@dataclass(frozen=True)
class Computed(Generic[A]):
    """An answer, and what became of it on the way."""

    answer: A
    batch_size: int
    """Images in the batch."""
    queue_seconds: float
    compute_seconds: float
    """Of the whole batch."""


@dataclass(eq=False)
class _Piece(Generic[W, A]):
    """What is computed together or not at all."""

    work: W
    images: int
    future: asyncio.Future[Computed[A]]
    since: float


@dataclass(eq=False)
class Line(Generic[W, A]):
    """What waits for one network. `run` computes the pieces of a batch, and gives an answer to each."""

    run: Callable[[Sequence[W]], Awaitable[Sequence[A]]]
    images_per_second: float | None = None
    """As measured lately; None before the first batch."""
    _waiting: deque[_Piece[W, A]] = field(default_factory=deque)

    @property
    def images(self) -> int:
        """How many wait."""
        return sum(piece.images for piece in self._waiting)

    @property
    def seconds_ahead(self) -> float:
        """In about how many seconds those that wait now are computed; a guess of 1 before anything was measured."""
        return self.images / self.images_per_second if self.images_per_second else 1.0

    @property
    def retry_seconds(self) -> int:
        """When to come again."""
        return _whole(self.seconds_ahead)

    def put(self, piece: _Piece[W, A]) -> None:
        """Let it wait."""
        self._waiting.append(piece)

    def drop(self, piece: _Piece[W, A]) -> None:
        """Nobody waits for it any more; quietly, when it is being computed already."""
        if piece in self._waiting:
            self._waiting.remove(piece)

    def take(self, most: int) -> list[_Piece[W, A]]:
        """The first pieces, in their order, as many as make up a batch of at most so many images."""
        taken: list[_Piece[W, A]] = []
        room = most
        while self._waiting and self._waiting[0].images <= room:
            taken.append(self._waiting.popleft())
            room -= taken[-1].images
        return taken

    def learn(self, images: int, seconds: float) -> None:
        """A batch took so long."""
        now = images / max(seconds, 1e-6)
        before = self.images_per_second
        self.images_per_second = now if before is None else (1 - _NEWEST_SHARE) * before + _NEWEST_SHARE * now


def _whole(seconds: float) -> int:
    return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(seconds)))


class Batcher:
    """Computes what waits in all lines, in turn; `serve` runs for as long as the process does."""

    def __init__(self, *, batch: int, waiting_images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch = batch
        self.batches: dict[int, int] = {}
        """How many batches of each size there were."""
        self._most = waiting_images
        self._clock = clock
        self._lines: deque[Line[Any, Any]] = deque()
        self._wake = asyncio.Event()

    @property
    def retry_seconds(self) -> int:
        """In about how many seconds all that waits in any line is computed; whole ones, from 1 to 60."""
        return _whole(sum(line.seconds_ahead for line in self._lines))

    def require_room(self, line: Line[Any, Any], images: int) -> None:
        """Refuse more for this line than may wait.

        Raises:
            TooBusy: it would be more.
        """
        if (waiting := line.images) + images > self._most:
            raise TooBusy(
                f"{waiting} images wait for this network already, and at most {self._most} may.",
                retry_after_seconds=line.retry_seconds,
                hint="Ask again when the time in Retry-After is over, and send fewer requests at a time.",
            )

    async def ask(self, line: Line[W, A], work: W, *, images: int) -> Computed[A]:
        """Wait for the answer; `images` is at most the size of a batch. Cancelled, it gives its place up at once.

        Raises:
            TooBusy: too many wait already.
        """
        if images > self.batch:
            raise AssertionError("The caller cuts what is larger than a batch.")
        self.require_room(line, images)
        piece = _Piece(work, images, asyncio.get_running_loop().create_future(), self._clock())
        line.put(piece)
        if line not in self._lines:
            self._lines.append(line)
        self._wake.set()
        try:
            return await piece.future
        finally:
            line.drop(piece)

    async def serve(self) -> None:
        """Compute one batch after the other."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._lines:
                line = self._lines.popleft()
                pieces = line.take(self.batch)
                if line.images:
                    self._lines.append(line)
                if pieces:
                    await self._compute(line, pieces)

    async def _compute(self, line: Line[W, A], pieces: Sequence[_Piece[W, A]]) -> None:
        began = self._clock()
        images = sum(piece.images for piece in pieces)
        try:
            answers = await line.run([piece.work for piece in pieces])
        except Exception as error:  # whatever it was, those who wait hear of it, and the others are served on
            for piece in pieces:
                if not piece.future.done():
                    piece.future.set_exception(error)
            return
        seconds = self._clock() - began
        line.learn(images, seconds)
        self.batches[images] = self.batches.get(images, 0) + 1
        for piece, answer in zip(pieces, answers, strict=True):
            if not piece.future.done():
                piece.future.set_result(Computed(answer, images, began - piece.since, seconds))
