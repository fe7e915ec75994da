"""Tar files, member by member, by a reader of our own that knows regular files and folders and refuses the rest.

Python's tarfile resolves links, makes devices and was bypassed again and again even with its filters. The format is
that of POSIX.1-2001 (ustar and pax), with GNU's long names.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from distillery.errors import HostileFile, UnreadableData
from engine.intake import names
from engine.intake.limits import Budget
from engine.intake.members import Container, Member, Slice
from engine.intake.streams import CHUNK_BYTES, Unpacked

_BLOCK = 512
_MOST_EXTENDED_BYTES = 64 << 10
_REFUSED = {
    b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file",
    b"K": "a link", b"D": "a folder with a listing of its own", b"M": "the rest of a file from another disk",
    b"N": "a name of an old form", b"V": "a label",
}  # fmt: skip
_FILES = (b"0", b"\0", b"7")
_HARMLESS_KEYS = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment")
_HARMLESS_PREFIXES = ("SCHILY.", "LIBARCHIVE.", "RHT.", "MSWINDOWS.")
_MEND = "Write the archive again with a common tool, such as 'tar -cf'; links and devices cannot be taken."
_CUT = "Send the archive again; it was cut short or damaged."


@dataclass
class _Extended:
    """What the headers before a member say about it."""

    path: str | None = None
    size: int | None = None
    seen: set[bytes] = field(default_factory=set)


class TarArchive(Container):
    """The members of a plain tar file of `size` bytes.

    Args:
        budget: counts what is read; None where it was counted when the tar was unpacked.

    Raises:
        HostileFile: a member is a link, a device or sparse, has a name that leads outside, or there are too many.
        UnreadableData: it is cut short or damaged.
    """

    def __init__(self, file: BinaryIO, *, size: int, budget: Budget | None, most_entries: int) -> None:
        self._file, self._size, self._budget, self._most = file, size, budget, most_entries
        self._at = 0
        self.members = tuple(self._listed())

    def open(self, place: tuple[int, int], *, name: str) -> BinaryIO:
        """The content of the member whose bytes begin and are as many as `place` says."""
        at, size = place
        packed = io.BufferedReader(Slice(self._file, at=at, size=size), CHUNK_BYTES)
        stream = Unpacked(packed, how="stored", packed_bytes=size, name=name, budget=self._budget)
        return io.BufferedReader(stream, CHUNK_BYTES)

    def _listed(self) -> Iterator[Member]:
        register, extended = names.Register(), _Extended()
        for number, header in enumerate(self._headers()):
            if number >= self._most:
                raise HostileFile(
                    f"The tar file has more than {self._most:,} entries.",
                    hint="Split the data set, or pack its samples into one parquet file.",
                )
            kind, size = header[156:157], _number(header[124:136])
            if kind in (b"x", b"g", b"L"):
                self._extend(extended, kind, size)
                continue
            size = size if extended.size is None else extended.size
            name = _name(header) if extended.path is None else extended.path
            extended = _Extended()
            if kind in _REFUSED or kind not in (*_FILES, b"5"):
                raise HostileFile(f"'{names.shown(name)}' is {_REFUSED.get(kind, 'of an unknown type')}.", hint=_MEND)
            folder = kind == b"5" or name.endswith("/")
            if folder and size:
                raise HostileFile(f"'{names.shown(name)}' is a folder with content.", hint=_MEND)
            at = self._skip(size)
            if name not in (".", "./"):
                parts = names.parts(name)
                if not folder:
                    register.add(parts)
                    yield Member(parts, size, self, (at, size))
        register.check()

    def _headers(self) -> Iterator[bytes]:
        """Every header block whose checksum is right, up to the end, which is at least one block of zeros."""
        while True:
            self._file.seek(self._at)
            block = self._file.read(_BLOCK)
            if len(block) < _BLOCK:
                raise UnreadableData("The tar file has no end: it was cut short.", hint=_CUT)
            if not block.strip(b"\0"):
                return self._check_rest()
            if block[148:156].strip(b" \0").lstrip(b"0") != b"%o" % (sum(block) - sum(block[148:156]) + 8 * 0x20):
                raise UnreadableData("A header of the tar file is damaged.", hint=_CUT)
            self._at += _BLOCK
            yield block

    def _check_rest(self) -> None:
        self._file.seek(self._at)
        while rest := self._file.read(1 << 20):
            if rest.strip(b"\0"):
                raise HostileFile("Something follows the end of the tar file.", hint=_MEND)
            if self._budget is not None:
                self._budget.check_time()

    def _skip(self, size: int) -> int:
        """Go past a content of `size` bytes; gives where it begins."""
        at = self._at
        if at + size > self._size:
            raise UnreadableData("A member of the tar file reaches past its end: it was cut short.", hint=_CUT)
        self._at += -(-size // _BLOCK) * _BLOCK
        return at

    def _extend(self, extended: _Extended, kind: bytes, size: int) -> None:
        if size > _MOST_EXTENDED_BYTES or kind in extended.seen:
            raise HostileFile("A header of the tar file is too long or comes twice.", hint=_MEND)
        extended.seen.add(kind)
        self._file.seek(self._skip(size))
        content = self._file.read(size)
        found = {"path": _decoded(content.rstrip(b"\0"))} if kind == b"L" else _pax(content)
        if kind == b"g" and {"path", "size"} & set(found):
            raise HostileFile("The tar file gives all its members one name or size.", hint=_MEND)
        if "path" in found:
            if extended.path is not None:
                raise HostileFile("A member of the tar file has two names.", hint=_MEND)
            extended.path = found["path"]
        if "size" in found:
            if not found["size"].isascii() or not found["size"].isdigit() or len(found["size"]) > 18:
                raise HostileFile("A member of the tar file tells an impossible size.", hint=_MEND)
            extended.size = int(found["size"])


def _number(digits: bytes) -> int:
    """A number in octal, or of GNU's in base 256."""
    if digits[:1] == b"\x80":
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    if digits[0] > 0x80 or text.strip(b"01234567"):
        raise HostileFile("A header of the tar file holds a number that is none.", hint=_MEND)
    return int(text or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _decoded(prefix + b"/" + name if prefix else name)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        names.parts(raw.decode("latin-1"), raw=raw)
        return raw.decode("latin-1")


def _pax(content: bytes) -> dict[str, str]:
    """The records of an extended header, of which only `path` and `size` are used."""
    found: dict[str, str] = {}
    while content.rstrip(b"\0"):
        length, space, _ = content[:16].partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length[:7]) <= len(content):
            raise HostileFile("An extended header of the tar file is malformed.", hint=_MEND)
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        name = _decoded(key)
        if not equals or not record.endswith(b"\n") or name in found:
            raise HostileFile("An extended header of the tar file is malformed.", hint=_MEND)
        if name not in ("path", "size", *_HARMLESS_KEYS) and not name.startswith(_HARMLESS_PREFIXES):
            raise HostileFile(f"An extended header of the tar file holds '{names.shown(name)}'.", hint=_MEND)
        found[name] = _decoded(value) if name in ("path", "size") else ""
    return found
