"""What every family of hostile data-set files is built from."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

HOSTILE, UNREADABLE = "HostileFile", "UnreadableData"


@dataclass(frozen=True)
class Case:
    """One file, what it must be refused as, and how it is made."""

    family: str
    name: str
    refused_as: str
    content: Callable[[], bytes] = field(repr=False)
    ending: str = ".zip"
    format: str = "auto"

    @property
    def file_name(self) -> str:
        return f"{self.family}--{self.name}{self.ending}"

    def write(self, folder: Path) -> Path:
        path = folder / self.file_name
        path.write_bytes(self.content())
        return path


def png(number: int = 0, *, size: int = 8) -> bytes:
    """A small sound picture; different numbers give different ones."""
    held = io.BytesIO()
    Image.new("RGB", (size, size), ((number * 53) % 256, (number * 31 + 7) % 256, 90)).save(held, "PNG")
    return held.getvalue()


def good_members() -> dict[str, bytes]:
    """A sound image folder of two classes."""
    return {
        f"train/{label}/{number}.png": png(number + 9 * len(label)) for label in ("cat", "zebra") for number in range(4)
    }


def zipped(members: dict[str, bytes] | Sequence[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip whose names are written as they are given."""
    held = io.BytesIO()
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, content in pairs:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = method
            archive.writestr(info, content)
    return held.getvalue()


def with_member(name: str, content: bytes, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A sound image folder as zip, and one member more."""
    return zipped({**good_members(), name: content}, method=method)


@dataclass
class RawZip:
    """A zip written header by header, so that each of them may lie."""

    local: list[bytes] = field(default_factory=list)
    central: list[bytes] = field(default_factory=list)
    at: int = 0

    def add(
        self,
        name: bytes,
        packed: bytes,
        *,
        size: int | None = None,
        method: int = 0,
        crc: int | None = None,
        flags: int = 0,
        mode: int = 0o100644,
        local_name: bytes | None = None,
        local_size: int | None = None,
        local_flags: int | None = None,
        header_at: int | None = None,
        packed_size: int | None = None,
        extra: bytes = b"",
        disk: int = 0,
    ) -> "RawZip":
        size = len(packed) if size is None else size
        crc = zlib.crc32(packed) if crc is None else crc
        packed_size = len(packed) if packed_size is None else packed_size
        shown = name if local_name is None else local_name
        header = struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", 20, flags if local_flags is None else local_flags, method, 0, 0, crc,
            packed_size & 0xFFFFFFFF, (size if local_size is None else local_size) & 0xFFFFFFFF, len(shown), 0,
        )  # fmt: skip
        place = self.at if header_at is None else header_at
        self.central.append(
            struct.pack(
                "<4sBBHHHHHIIIHHHHHII", b"PK\1\2", 20, 3, 20, flags, method, 0, 0, crc, packed_size & 0xFFFFFFFF,
                size & 0xFFFFFFFF, len(name), len(extra), 0, disk, 0, mode << 16, place,
            )
            + name
            + extra
        )  # fmt: skip
        self.local.append(header + shown + packed)
        self.at += len(self.local[-1])
        return self

    def only_listed(self, name: bytes, *, size: int, packed_size: int, header_at: int, method: int = 8) -> "RawZip":
        """An entry of the directory whose member was written before, or nowhere."""
        before = len(self.local)
        at = self.at
        self.add(name, b"", size=size, method=method, crc=0, packed_size=packed_size, header_at=header_at)
        del self.local[before:]
        self.at = at
        return self

    def bytes(self, *, count: int | None = None, comment: bytes = b"", disk: int = 0, shift: int = 0) -> bytes:
        body, directory = b"".join(self.local), b"".join(self.central)
        count = len(self.central) if count is None else count
        end = struct.pack(
            "<4sHHHHIIH", b"PK\5\6", disk, disk, count & 0xFFFF, count & 0xFFFF, len(directory), len(body) + shift,
            len(comment),
        )  # fmt: skip
        return body + directory + end + comment


def raw_good() -> RawZip:
    """The sound image folder, to go on from."""
    archive = RawZip()
    for name, content in good_members().items():
        archive.add(name.encode(), content)
    return archive


def deflated(megabytes: int, *, chunk: bytes = bytes(1 << 20)) -> bytes:
    """A deflate stream of so many times the chunk, which is packed but once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def zeros_deflated(megabytes: int) -> tuple[bytes, int, int]:
    """A deflate stream of so many megabytes of zeros, its length when unpacked, and a sum that nobody checks."""
    return deflated(megabytes), megabytes << 20, 0


def zlibbed(megabytes: int, *, chunk: bytes = bytes(1 << 20)) -> bytes:
    """The same as a zlib stream, whose sum at the end is wrong."""
    return b"\x78\xda" + deflated(megabytes, chunk=chunk) + bytes(4)


TRAVERSALS: dict[str, str] = {
    "parent": "../evil.png",
    "parent-within": "train/cat/../../../evil.png",
    "parent-last": "train/cat/..",
    "root": "/tmp/evil.png",
    "two-slashes": "//server/share/evil.png",
    "drive": "C:/evil.png",
    "drive-relative": "C:evil.png",
    "backslash": "train\\cat\\evil.png",
    "backslash-parent": "..\\..\\evil.png",
    "unc": "\\\\server\\share\\evil.png",
    "device-path": "\\\\?\\C:\\evil.png",
    "mixed": "train/..\\../evil.png",
    "home": "~/evil.png",
    "control": "train/cat/ev\x01il.png",
    "newline": "train/cat/evil\n.png",
    "escape": "train/cat/\x1b[2Jevil.png",
    "fullwidth-slash": "train/cat/..\uff0f..\uff0fevil.png",
    "fraction-slash": "train/cat/..\u2044evil.png",
    "division-slash": "train/cat/..\u2215evil.png",
    "set-minus": "train/cat/..\u2216evil.png",
    "fullwidth-backslash": "train/cat/..\uff3cevil.png",
    "big-solidus": "train/cat/..\u29f8evil.png",
    "care-of": "train/cat/\u2105evil.png",
    "fullwidth-dots": "train/\uff0e\uff0e/evil.png",
    "two-dot-leader": "train/\u2025/evil.png",
    "one-dot-leaders": "train/\u2024\u2024/evil.png",
    "small-full-stops": "train/\ufe52\ufe52/evil.png",
    "right-to-left": "train/cat/\u202egnp.exe",
    "isolate": "train/cat/\u2066evil\u2069.png",
    "arabic-mark": "train/cat/\u061cevil.png",
    "zero-width": "train/ca\u200bt/evil.png",
    "byte-order-mark": "train/\ufeffcat/evil.png",
    "line-separator": "train/cat/evil\u2028.png",
    "tag-characters": "train/cat/evil\U000e0041.png",
    "percent": "train/%2e%2e/evil.png",
    "percent-slash": "train/cat/..%2fevil.png",
    "percent-twice": "train/%252e%252e/evil.png",
    "percent-overlong": "train/cat/%c0%afevil.png",
    "trailing-dot": "train/cat./evil.png",
    "trailing-space": "train/cat /evil.png",
    "dots-and-space": "train/.. /evil.png",
    "three-dots": "train/.../evil.png",
    "dot": "train/./cat/evil.png",
    "empty-part": "train//cat/evil.png",
    "too-deep": "a/" * 60 + "evil.png",
    "too-long-part": "train/cat/" + "e" * 300 + ".png",
}
"""Names that lead outside, or pretend, on some system."""


def many(family: str, refused_as: str, made: dict[str, Callable[[], bytes]], **fields: str) -> Iterator[Case]:
    """The cases of one family that are refused alike."""
    for name, content in made.items():
        yield Case(family, name, refused_as, content, **fields)
