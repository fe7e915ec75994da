"""Images decoded by guarded children, several at once, with the answers in the order of the questions.

Which child decodes what changes nothing: the same files give the same pixels for any number of children.
"""

import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData
from engine.intake import guard, pixels

PROCESSES = 2
_FILES_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 20
_MEMORY_BYTES = 2 << 30
_TASK = struct.Struct("<BI")
_ANSWER = struct.Struct("<BBII")
_BROKEN, _PIXELS, _CHANNELS = 0, 1, 2
_MOST_REASON = 300


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: NDArray[np.uint8]
    """uint8 [C, H, W]."""
    scaled: bool


@dataclass(frozen=True)
class Task:
    """What the children do with every file."""

    channels: int | None
    """None: only tell how many channels the image has."""
    short_side: int


class Decoders:
    """Children that decode images, begun when they are needed. Use it as a context manager: none outlives it."""

    def __init__(self, *, processes: int = PROCESSES) -> None:
        pixels.load_decoders()
        self._children: list[guard.Child | None] = [None] * processes
        self._task = Task(None, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._children:
            if child is not None:
                child.close()

    def map(self, files: Iterable[bytes | str], task: Task) -> Iterator[Picture | int | str]:
        """For each file in order its picture, of a task without channels their number, or why it has none.

        The reason goes on from the file's name. Where it is known before, it stands in place of the file's content.
        """
        self._task = task
        waiting: deque[tuple[int, Sequence[bytes | str]]] = deque()
        turn = 0
        for batch in _batched(files):
            # A child is asked anew before its last answers are worked on, so that it never waits for us.
            done = self._answers(*waiting.popleft()) if len(waiting) == len(self._children) else []
            self._ask(turn, batch)
            waiting.append((turn, batch))
            turn = (turn + 1) % len(self._children)
            yield from done
        while waiting:
            yield from self._answers(*waiting.popleft())

    def _ask(self, place: int, batch: Sequence[bytes | str]) -> None:
        for _ in range(2):  # a child that died between two batches is nobody's fault
            child = self._children[place]
            if child is None:
                child = self._children[place] = guard.Child(self._work, memory_bytes=_MEMORY_BYTES)
            try:
                files = (struct.pack("<Q", len(each)) + each for each in batch if isinstance(each, bytes))
                child.send(b"".join((_TASK.pack(self._task.channels or 0, self._task.short_side), *files)))
                return
            except guard.ChildGone:
                self._bury(place)
        raise UnreadableData("The processes that decode images cannot be kept alive.", hint="Try again later.")

    def _answers(self, place: int, batch: Sequence[bytes | str]) -> list[Picture | int | str]:
        answers: list[Picture | int | str] = []
        while len(answers) < len(batch):
            known = batch[len(answers)]
            if isinstance(known, str):
                answers.append(known)
                continue
            child = self._children[place]
            assert child is not None  # noqa: S101 - it was asked
            try:
                answers.append(_parsed(child.receive(), self._task))
            except (guard.ChildGone, UnreadableData) as gone:
                answers.append(str(gone))
                self._bury(place)
                if len(answers) < len(batch):
                    self._ask(place, batch[len(answers) :])
        return answers

    def _bury(self, place: int) -> None:
        child = self._children[place]
        if child is not None:
            child.close()
        self._children[place] = None

    def _work(self, channel: socket.socket) -> None:
        """The child's side: a frame of a task and files in, a frame for each of the files out."""
        while True:
            frame = guard.receive(channel)
            channels, short_side = _TASK.unpack_from(frame)
            task, at = Task(channels or None, short_side), _TASK.size
            while at < len(frame):
                length = struct.unpack_from("<Q", frame, at)[0]
                content = bytes(frame[at + 8 : at + 8 + length])
                at += 8 + length
                guard.on_cpu_for(guard.CPU_SECONDS)
                answer = _answer(content, task)
                guard.on_cpu_for(0)
                guard.send(channel, answer)


def _answer(content: bytes, task: Task) -> bytes:
    try:
        if task.channels is None:
            return _ANSWER.pack(_CHANNELS, 0, pixels.channels_of(content), 0)
        image, scaled = pixels.decoded(content, channels=task.channels, short_side=task.short_side)
        return _ANSWER.pack(_PIXELS, scaled, image.shape[1], image.shape[2]) + image.tobytes()
    except UnreadableData as error:
        return _ANSWER.pack(_BROKEN, 0, 0, 0) + error.detail[:_MOST_REASON].encode(errors="replace")


def _parsed(frame: bytearray, task: Task) -> Picture | int | str:
    """What a child answered; it may have been taken over by what it read, so that nothing of it is believed."""
    if len(frame) < _ANSWER.size:
        raise UnreadableData("made its decoder answer nonsense")
    kind, scaled, height, width = _ANSWER.unpack_from(frame)
    if kind == _CHANNELS and task.channels is None and height in (1, 3):
        return int(height)
    rest = len(frame) - _ANSWER.size
    if kind == _PIXELS and task.channels is not None and height and width:
        if rest == task.channels * height * width and min(height, width) <= task.short_side:
            array = np.frombuffer(frame, dtype=np.uint8, offset=_ANSWER.size)
            return Picture(array.reshape(task.channels, height, width), bool(scaled))
    elif kind == _BROKEN and rest <= 4 * _MOST_REASON:
        return frame[_ANSWER.size :].decode(errors="replace")
    raise UnreadableData("made its decoder answer nonsense")


def _batched(files: Iterable[bytes | str]) -> Iterator[Sequence[bytes | str]]:
    batch: list[bytes | str] = []
    size = 0
    for content in files:
        batch.append(content)
        size += len(content)
        if len(batch) == _FILES_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
