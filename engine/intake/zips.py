"""Zip files, member by member, each held against the directory: its local header, its sizes and its checksum.

Before anything is unpacked the directory is held against itself: no member may overlap another, which is what makes
the bombs of Fifield (2019, zbsm.zip) large and what Python's reader does not look at before 3.11.8.
"""

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from distillery import zip_directory
from distillery.errors import HostileFile, UnreadableData
from distillery.zip_directory import Entry
from engine.intake import names
from engine.intake.limits import Budget
from engine.intake.members import Container, Member, Slice
from engine.intake.streams import CHUNK_BYTES, Unpacked

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SIZES_FOLLOW = 0x8
_FULL_32 = 0xFFFFFFFF
_METHODS = {0: "stored", 8: "deflate"}
_AT_ONCE = 1 << 20
_MEND = "Write the archive again with a common tool, such as 'zip -r'."


class ZipArchive(Container):
    """The members of a zip file.

    Raises:
        HostileFile: two overlap or share a name, one is encrypted, no regular file, or has a name that leads outside;
            there are too many, or they promise to unpack to too much.
        UnreadableData: it is cut short, or packed in a way that is not read.
    """

    def __init__(self, file: BinaryIO, *, size: int, budget: Budget) -> None:
        self._file, self._budget = file, budget
        directory = zip_directory.find(file, size=size)
        self._until = directory.at
        entries = list(zip_directory.entries(file, directory, most=budget.limits.entries))
        self._check_places(entries)
        self.members = tuple(self._listed(entries))

    def open(self, place: Entry, *, name: str) -> BinaryIO:
        """The content of the member at `place`; its end is where size and checksum are compared."""
        at = self._content_at(place, name=name)
        packed = io.BufferedReader(Slice(self._file, at=at, size=place.packed_bytes), CHUNK_BYTES)
        stream = Unpacked(
            packed, how=_METHODS[place.method], packed_bytes=place.packed_bytes, name=name, budget=self._budget
        )
        return io.BufferedReader(_Checked(stream, entry=place, name=name), CHUNK_BYTES)

    def read(self, place: Entry, *, name: str, most: int) -> bytes | None:
        """A small stored member at once, because there may be a hundred thousand; None of any other."""
        if place.method != 0 or place.size_bytes != place.packed_bytes or place.size_bytes > min(most, _AT_ONCE):
            return None
        self._file.seek(self._content_at(place, name=name))
        content = self._file.read(place.size_bytes)
        self._budget.spend(len(content))
        if len(content) != place.size_bytes or zlib.crc32(content) != place.crc:
            raise _damaged(name)
        return content

    def _listed(self, entries: list[Entry]) -> Iterator[Member]:
        register, promised = names.Register(), 0
        for entry in entries:
            parts = names.parts(entry.name, raw=entry.raw_name)
            _check_kind(entry)
            promised += entry.size_bytes
            self._budget.check_member(entry.name, unpacked=entry.size_bytes, packed=entry.packed_bytes)
            if entry.name.endswith("/"):
                continue
            register.add(parts)
            yield Member(parts, entry.size_bytes, self, entry)
        register.check()
        self._budget.foresee(promised)

    def _check_places(self, entries: list[Entry]) -> None:
        """No two members share a byte, none lies in the directory, and nothing lies before the first."""
        end = 0
        for number, entry in enumerate(sorted(entries, key=lambda entry: entry.header_at)):
            if entry.header_at < end:
                raise HostileFile("Members of the zip file overlap, as in zip bombs.", hint=_MEND)
            if number == 0 and entry.header_at != 0:
                raise HostileFile("The zip file has something before its first member.", hint=_MEND)
            end = entry.header_at + _LOCAL.size + len(entry.raw_name) + entry.packed_bytes
        if end > self._until or (not entries and self._until != 0):
            raise HostileFile("A member of the zip file reaches into its directory.", hint=_MEND)

    def _content_at(self, entry: Entry, *, name: str) -> int:
        """Where the member's bytes begin, after its local header was held against the directory."""
        self._file.seek(entry.header_at)
        header = self._file.read(_LOCAL.size)
        if header[:4] != b"PK\x03\x04":
            raise HostileFile(f"The zip file holds no '{name}' where its directory says so.", hint=_MEND)
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
        same = (flags & ~_SIZES_FOLLOW, method) == (entry.flags & ~_SIZES_FOLLOW, entry.method)
        if self._file.read(name_length) != entry.raw_name or not same:
            raise HostileFile(f"The zip file says two things about '{name}'.", hint=_MEND)
        told = (crc, 0, entry.crc), (packed, _FULL_32, entry.packed_bytes), (size, _FULL_32, entry.size_bytes)
        follows = bool(flags & _SIZES_FOLLOW)
        if any(here not in (full, there) and not (follows and here == 0) for here, full, there in told):
            raise HostileFile(f"The zip file tells two sizes or checksums of '{name}'.", hint=_MEND)
        at: int = entry.header_at + _LOCAL.size + name_length + extra_length
        if at + entry.packed_bytes > self._until:
            raise HostileFile(f"'{name}' reaches into the directory of the zip file.", hint=_MEND)
        return at


class _Checked(io.RawIOBase):
    """A member's content, held against the size and the checksum that the directory tells."""

    def __init__(self, stream: Unpacked, *, entry: Entry, name: str) -> None:
        self._stream, self._entry, self._name = stream, entry, name
        self._crc, self._length, self._ended = 0, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer))
        self._crc = zlib.crc32(memoryview(buffer).cast("B")[:count], self._crc)
        self._length += count
        if self._length > self._entry.size_bytes:
            raise HostileFile(
                f"'{self._name}' says it has {self._entry.size_bytes:,} bytes and unpacks to more.", hint=_MEND
            )
        if count == 0 and memoryview(buffer).nbytes and not self._ended:
            self._ended = True
            if (self._length, self._crc) != (self._entry.size_bytes, self._entry.crc):
                raise _damaged(self._name)
        return count


def _damaged(name: str) -> UnreadableData:
    return UnreadableData(
        f"'{name}' does not have the length and checksum that it was packed with.",
        hint="Send the archive again; it was damaged on the way.",
    )


def _check_kind(entry: Entry) -> None:
    kind = stat.S_IFMT(entry.mode)
    folder = entry.name.endswith("/")
    if entry.flags & _ENCRYPTED:
        raise HostileFile(f"{_called(entry)} is encrypted.", hint="Write the archive without a password.")
    if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
        raise HostileFile(
            f"{_called(entry)} is a {_KINDS.get(kind, 'device')}; only files are read.",
            hint="Pack the files themselves, not links to them.",
        )
    if folder and entry.size_bytes:
        raise HostileFile(f"{_called(entry)} is a folder with content.", hint=_MEND)
    if entry.method not in _METHODS and not folder:
        raise UnreadableData(
            f"{_called(entry)} is packed by method {entry.method}; stored and deflated members are read.", hint=_MEND
        )


def _called(entry: Entry) -> str:
    return f"'{names.shown(entry.name)}'"


_KINDS = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFIFO: "pipe"}
