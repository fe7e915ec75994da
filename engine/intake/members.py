"""A file inside a source: an archive's member, a file below a folder, or a single file; all are read the same way."""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, BinaryIO

from distillery.errors import UnreadableData
from distillery.sniff import HEAD_BYTES, sniff


class Container(ABC):
    """Opens its members; an archive reads from its one file, so only one of them can be read at a time."""

    @abstractmethod
    def open(self, place: Any, *, name: str) -> BinaryIO:
        """The member's content from its beginning, counted and checked while it is read."""

    def read(self, place: Any, *, name: str, most: int) -> bytes | None:
        """The member's content at once, where that is quicker; None where it must be opened."""
        return None


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file. `parts` are its checked names; `place` is where its container finds it."""

    parts: tuple[str, ...]
    size_bytes: int
    """As the container says; the content may prove shorter or longer."""
    container: Container
    place: Any

    @property
    def name(self) -> str:
        """Folders and file, for people."""
        return "/".join(self.parts)

    def open(self) -> BinaryIO:
        """The content.

        Raises (also while it is read):
            UnreadableData: it is damaged, and only it.
            HostileFile: it, or the archive, is not safe to read on.
        """
        return self.container.open(self.place, name=self.name)

    def read(self, *, most: int) -> bytes:
        """The whole content.

        Raises:
            UnreadableData: it is damaged, or has more than `most` bytes.
            HostileFile: as `open`.
        """
        content = self.container.read(self.place, name=self.name, most=most)
        if content is None:
            with self.open() as stream:
                content = exactly(stream, most + 1)
        if len(content) > most:
            raise UnreadableData(
                f"'{self.name}' has more than {most:,} bytes; no more are read.", hint="Make the file smaller."
            )
        return content

    def kind(self) -> str:
        """What it is, told by its first bytes; `unknown` of one that cannot be read.

        Raises:
            HostileFile: as `open`.
        """
        with self.open() as stream:
            return sniff(exactly(stream, HEAD_BYTES))


def exactly(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, or all that there are."""
    pieces, left = [], count
    while left > 0 and (piece := stream.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class Slice(io.RawIOBase):
    """`size` bytes of `file` from `at` on."""

    def __init__(self, file: BinaryIO, *, at: int, size: int) -> None:
        self._file, self._at, self._left = file, at, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._at)  # others may have read from it meanwhile
        content = self._file.read(min(len(view), self._left))
        view[: len(content)] = content
        self._at += len(content)
        self._left -= len(content)
        return len(content)
