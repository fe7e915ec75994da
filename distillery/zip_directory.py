"""The central directory of a zip file, read strictly and by ourselves.

Python's own reader searches for a directory, mends what does not fit and, before 3.11.8, lets members overlap. Files
from strangers are held to the letter instead: one directory, at the very end, that says exactly what the file holds.
Layout: APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from distillery.errors import HostileFile, UnreadableData

MOST_ENTRIES = 200_000
LONGEST_NAME_BYTES = 1_024
_MOST_DIRECTORY_BYTES = 128 << 20
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_ENTRY = struct.Struct("<4sBBHHHHHIIIHHHHHII")
_LONGEST_COMMENT = 0xFFFF
MOST_END_BYTES = _END.size + _LONGEST_COMMENT
"""In so many last bytes of a file lies the end of its directory, if it has one."""
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_UTF_8 = 0x800
_MEND = "Write the archive again with a common tool, such as 'zip -r'."


@dataclass(frozen=True)
class Entry:
    """What the directory says of one member; nothing of it is believed before it is compared with the bytes."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    header_at: int
    """Where its local header lies, in bytes from the beginning of the file."""
    mode: int
    """Type and permissions as Unix keeps them; 0 where nothing is said."""


@dataclass(frozen=True)
class Directory:
    """Where the directory lies, and how many entries it should have."""

    at: int
    size_bytes: int
    count: int


def ends_as_zip(tail: bytes, *, size: int) -> bool:
    """Whether the last bytes of a file of `size` bytes are the end of a zip's directory, wherever that begins."""
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        return False
    _, _, _, _, _, length, _, comment = _END.unpack_from(tail, place)
    begins = place - length
    fits = place + _END.size + comment == len(tail) and length <= size
    return fits and (not 0 <= begins <= place - 4 or tail[begins : begins + 4] == b"PK\x01\x02")


def find(file: BinaryIO, *, size: int) -> Directory:
    """The directory of a zip file of `size` bytes.

    Raises:
        UnreadableData: there is none, as in a file that was cut short.
        HostileFile: there is something before, behind or between, or it spans several disks.
    """
    tail_at = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise UnreadableData("The zip file has no directory at its end: it was cut short.", hint="Send it again whole.")
    _, disk, first_disk, here, count, length, at, comment = _END.unpack_from(tail, place)
    end_at = tail_at + place
    if end_at + _END.size + comment != size:
        raise HostileFile("Something follows the directory of the zip file.", hint=_MEND)
    if disk or first_disk or here != count:
        raise HostileFile("The zip file says it is one of several disks.", hint="Send it as one file.")
    directory = _wide(file, end_at=end_at, narrow=Directory(at, length, count))
    if directory.size_bytes > _MOST_DIRECTORY_BYTES or directory.size_bytes < _ENTRY.size * directory.count:
        raise HostileFile("The directory of the zip file has an impossible length.", hint=_MEND)
    return directory


def entries(file: BinaryIO, directory: Directory, *, most: int = MOST_ENTRIES) -> Iterator[Entry]:
    """The entries in the directory's order, one at a time.

    Raises:
        HostileFile: there are more than `most`, or more or fewer than the directory's end says, or one is malformed.
    """
    if directory.count > most:
        raise HostileFile(
            f"The zip file has {directory.count:,} entries; at most {most:,} are read.",
            hint="Split the data set, or pack its samples into one parquet file.",
        )
    at, end = directory.at, directory.at + directory.size_bytes
    for _ in range(directory.count):
        file.seek(at)
        fixed = file.read(_ENTRY.size)
        if at + _ENTRY.size > end or fixed[:4] != b"PK\x01\x02":
            raise HostileFile("The directory of the zip file holds fewer entries than it says.", hint=_MEND)
        entry, length = _entry(fixed, file)
        at += length
        yield entry
    if at != end:
        raise HostileFile("The directory of the zip file holds more than it says.", hint=_MEND)


def _wide(file: BinaryIO, *, end_at: int, narrow: Directory) -> Directory:
    """The directory of a file that needs 64 bits; `narrow` itself of one that does not. Checks that nothing lies
    between the directory and its end."""
    locator_at = end_at - _LOCATOR.size
    if locator_at >= 0:
        file.seek(locator_at)
        magic, disk, record_at, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if magic == b"PK\x06\x07":
            return _of_64_bits(file, record_at, locator_at=locator_at, narrow=narrow, disks=(disk, disks))
    if narrow.at + narrow.size_bytes != end_at:
        raise HostileFile("The zip file has something before its beginning or within its directory.", hint=_MEND)
    return narrow


def _of_64_bits(
    file: BinaryIO, record_at: int, *, locator_at: int, narrow: Directory, disks: tuple[int, int]
) -> Directory:
    if record_at + _END_64.size != locator_at or disks not in ((0, 1), (0, 0)):
        raise HostileFile("The zip file has something before its beginning or within its directory.", hint=_MEND)
    file.seek(record_at)
    magic, _, _, _, disk, first_disk, here, count, length, at = _END_64.unpack(file.read(_END_64.size))
    told = (narrow.at, _FULL_32, at), (narrow.size_bytes, _FULL_32, length), (narrow.count, _FULL_16, count)
    if magic != b"PK\x06\x06" or disk or first_disk or here != count or at + length != record_at:
        raise HostileFile("The two ends of the zip file's directory do not fit.", hint=_MEND)
    if any(short not in (full, long) for short, full, long in told):
        raise HostileFile("The two ends of the zip file's directory contradict each other.", hint=_MEND)
    return Directory(at, length, count)


def _entry(fixed: bytes, file: BinaryIO) -> tuple[Entry, int]:
    """An entry and its length in the directory, given its fixed part; the file stands behind that."""
    (_, _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, disk, _,
     attributes, header_at) = _ENTRY.unpack(fixed)  # fmt: skip
    if name_length > LONGEST_NAME_BYTES:
        raise HostileFile(
            f"A member's name has {name_length:,} bytes; at most {LONGEST_NAME_BYTES:,} are read.",
            hint="Shorten the names of files and folders.",
        )
    if disk not in (0, _FULL_16):
        raise HostileFile("A member of the zip file lies on another disk.", hint="Send it as one file.")
    raw_name, extra = file.read(name_length), file.read(extra_length)
    if len(raw_name) != name_length or len(extra) != extra_length:
        raise HostileFile("The directory of the zip file is cut short.", hint=_MEND)
    size, packed, header_at = _widened(extra, size=size, packed=packed, header_at=header_at)
    entry = Entry(
        name=_decoded(raw_name, flags=flags),
        raw_name=raw_name,
        flags=flags,
        method=method,
        crc=crc,
        packed_bytes=packed,
        size_bytes=size,
        header_at=header_at,
        mode=attributes >> 16,
    )
    return entry, _ENTRY.size + name_length + extra_length + comment_length


def _decoded(raw: bytes, *, flags: int) -> str:
    """Names are UTF-8 where they say so or could be; else they come from an old DOS."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF_8:
            raise HostileFile("A member's name says it is UTF-8 and is not.", hint=_MEND) from None
        return raw.decode("cp437")


def _widened(extra: bytes, *, size: int, packed: int, header_at: int) -> tuple[int, int, int]:
    """Sizes and place of a member in 64 bits: each that is full in the fixed part stands in the extra field 1."""
    wanted = [value == _FULL_32 for value in (size, packed, header_at)]
    if not any(wanted):
        return size, packed, header_at
    field = _extra_field(extra, 1)
    if len(field) < 8 * sum(wanted):
        raise HostileFile("A member of the zip file promises sizes in 64 bits and brings none.", hint=_MEND)
    wide = iter(struct.unpack(f"<{sum(wanted)}Q", field[: 8 * sum(wanted)]))
    values = [next(wide) if full else value for value, full in zip((size, packed, header_at), wanted, strict=True)]
    return values[0], values[1], values[2]


def _extra_field(extra: bytes, number: int) -> bytes:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == number:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""
