"""Hostile archives: bombs, lies, names that lead outside, links and devices, duplicates, things within things."""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator

from tests.hostile.cases import (
    HOSTILE,
    TRAVERSALS,
    UNREADABLE,
    Case,
    RawZip,
    deflated,
    good_members,
    many,
    png,
    raw_good,
    with_member,
    zeros_deflated,
    zipped,
)


def cases() -> Iterator[Case]:
    yield from many("zip-bomb", HOSTILE, _zip_bombs())
    yield from many("zip-lies", HOSTILE, _zip_lies())
    yield from many("zip-damaged", UNREADABLE, _zip_damaged())
    yield from many("zip-kinds", HOSTILE, _zip_kinds())
    yield from many("nested", HOSTILE, _nested())
    yield from many("duplicates", HOSTILE, _duplicates())
    for name, path in TRAVERSALS.items():
        yield Case("zip-names", name, HOSTILE, lambda path=path: _zip_named(path.encode()))  # type: ignore[misc]
        yield Case("tar-names", name, HOSTILE, lambda path=path: _tar_named(path), ".tar")  # type: ignore[misc]
    yield from many("zip-names", HOSTILE, _zip_raw_names())
    yield from many("tar-kinds", HOSTILE, _tar_kinds(), ending=".tar")
    yield from many("tar-pax", HOSTILE, _tar_pax(), ending=".tar")
    yield from many("tar-lies", HOSTILE, _tar_lies(), ending=".tar")
    yield from many("tar-damaged", UNREADABLE, _tar_damaged(), ending=".tar")
    yield from many("compressed", HOSTILE, _compressed(), ending=".gz")
    yield from many("compressed", HOSTILE, {"idx-of-zeros": _idx_bomb})
    yield from many("compressed", UNREADABLE, _compressed_damaged(), ending=".gz")


def _zip_bombs() -> dict[str, Callable[[], bytes]]:
    return {
        "flat": _flat_bomb,
        "flat-under-a-false-size": lambda: _flat_bomb(told=1_000),
        "flat-without-sizes": lambda: _flat_bomb(told=0, flags=8),
        "many-members": _many_bombs,
        "full-overlap": lambda: _overlap(500),
        "quoted-overlap": _quoted_overlap,
        "shared-content": lambda: _overlap(2),
        "promises-petabytes": _petabytes,
        "million-entries": lambda: _empty_entries(1_000_000),
        "one-entry-too-many": lambda: _empty_entries(200_001),
        "million-folders": lambda: _empty_entries(300_000, folder=True),
    }


def _flat_bomb(told: int | None = None, flags: int = 0) -> bytes:
    packed, size, crc = zeros_deflated(100)
    name = b"train/cat/bomb.png"
    return raw_good().add(name, packed, method=8, size=size if told is None else told, crc=crc, flags=flags).bytes()


def _many_bombs() -> bytes:
    packed, size, crc = zeros_deflated(20)
    archive = raw_good()
    for number in range(60):
        archive.add(b"train/cat/%d.png" % number, packed, method=8, size=size, crc=crc)
    return archive.bytes()


def _overlap(count: int) -> bytes:
    packed, size, crc = zeros_deflated(2)
    archive = raw_good()
    at = archive.at
    archive.add(b"train/cat/k.png", packed, method=8, size=size, crc=crc)
    for number in range(count):
        archive.only_listed(b"train/cat/%d.png" % number, size=size, packed_size=len(packed), header_at=at)
    return archive.bytes()


def _quoted_overlap() -> bytes:
    """Fifield's second way: each member's stored block quotes the header of the next, and all end in one kernel."""
    kernel, _, _ = zeros_deflated(1)
    inner = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(kernel), 1 << 20, 1, 0) + b"b" + kernel
    quoted = struct.pack("<BHH", 0, 31, 31 ^ 0xFFFF) + inner
    archive = RawZip().add(b"a", quoted, method=8, size=(1 << 20) + 31, crc=0)
    return archive.only_listed(b"b", size=1 << 20, packed_size=len(kernel), header_at=31 + 5).bytes()


def _petabytes() -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, 1 << 52, 4)
    return raw_good().add(b"train/cat/x.png", b"data", size=0xFFFFFFFF, packed_size=0xFFFFFFFF, extra=extra).bytes()


def _empty_entries(count: int, *, folder: bool = False) -> bytes:
    """So many entries, all of the same header; a directory in 64 bits."""
    held = io.BytesIO()
    held.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 6, 0) + b"000000")
    at = held.tell()
    name = b"000000/" if folder else b"0000000"
    entry = struct.pack("<4sBBHHHHHIIIHHHHHII", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    held.write((entry + name) * count)
    length, end = held.tell() - at, held.tell()
    held.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, at))
    held.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
    held.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    return held.getvalue()


def _zip_lies() -> dict[str, Callable[[], bytes]]:
    name, content = b"train/cat/x.png", png(77)
    return {
        "other-name-inside": lambda: raw_good().add(name, content, local_name=b"../../../evil.p").bytes(),
        "other-size-inside": lambda: raw_good().add(name, content, local_size=5).bytes(),
        "other-flags-inside": lambda: raw_good().add(name, content, local_flags=1).bytes(),
        "larger-than-told": lambda: raw_good().add(name, zlib.compress(content * 90)[2:-4], method=8, size=90).bytes(),
        "more-entries-told": lambda: raw_good().bytes(count=40),
        "fewer-entries-told": lambda: raw_good().bytes(count=2),
        "directory-moved-down": lambda: raw_good().bytes(shift=-7),
        "directory-moved-up": lambda: raw_good().bytes(shift=900_000),
        "several-disks": lambda: raw_good().bytes(disk=3),
        "member-on-another-disk": lambda: raw_good().add(name, content, disk=2).bytes(),
        "no-member-there": lambda: raw_good().only_listed(name, size=9, packed_size=9, header_at=7).bytes(),
        "member-within-directory": lambda: raw_good().add(name, content, packed_size=100_000, size=100_000).bytes(),
        "behind-the-end": lambda: zipped(good_members()) + b"something more",
        "zeros-behind-the-end": lambda: zipped(good_members()) + bytes(100),
        "two-ends": lambda: raw_good().bytes(comment=b"PK\5\6" + bytes(18)),
        "elf-before": lambda: b"\x7fELF" + bytes(60) + zipped(good_members()),
        "script-before": lambda: b"#!/bin/sh\ntouch MARKER\nexit\n" + zipped(good_members()),
        "image-before": lambda: png() + zipped(good_members()),
        "html-before": lambda: b"<html><script>alert(1)</script></html>" + zipped(good_members()),
        "zeros-before": lambda: bytes(512) + zipped(good_members()),
        "fitting-prefix": _fitting_prefix,
        "zip-then-zip": lambda: zipped(good_members()) + zipped({"../evil.png": png()}),
        "64-bit-contradiction": _contradicting_64,
        "64-bit-extra-missing": lambda: raw_good().add(name, content, size=0xFFFFFFFF).bytes(),
        "64-bit-extra-short": lambda: raw_good().add(name, content, size=0xFFFFFFFF, extra=b"\1\0\x02\0ab").bytes(),
        "name-says-utf-8": lambda: raw_good().add(b"train/cat/\xff\xfe.png", content, flags=0x800).bytes(),
        "empty-name": lambda: raw_good().add(b"", content).bytes(),
        "name-of-30000-bytes": lambda: raw_good().add(b"a" * 30_000, content).bytes(),
    }


def _fitting_prefix() -> bytes:
    held = io.BytesIO(b"MZ" + bytes(62))
    held.seek(0, 2)
    with zipfile.ZipFile(held, "a") as archive:
        for name, content in good_members().items():
            archive.writestr(name, content)
    return held.getvalue()


def _contradicting_64() -> bytes:
    plain = raw_good().bytes()
    body, end = plain[:-22], plain[-22:]
    _, _, _, _, count, length, at, _ = struct.unpack("<4sHHHHIIH", end)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count + 1, count + 1, length, at)
    return body + record + struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1) + end


def _zip_damaged() -> dict[str, Callable[[], bytes]]:
    good = zipped(good_members())
    name, content = b"train/cat/x.png", png(77)
    made: dict[str, Callable[[], bytes]] = {
        f"cut-at-{percent}-percent": lambda percent=percent: good[: len(good) * percent // 100]  # type: ignore[misc]
        for percent in (5, 30, 60, 90, 99)
    }
    for method in (1, 6, 9, 12, 14, 93, 95, 97, 98, 99):
        made[f"method-{method}"] = lambda method=method: raw_good().add(name, content, method=method).bytes()  # type: ignore[misc]
    return {
        **made,
        "wrong-checksum": lambda: raw_good().add(name, content, crc=1).bytes(),
        "deflated-garbage": lambda: raw_good().add(name, b"\xff" * 50, method=8, size=90).bytes(),
        "deflated-and-cut": lambda: raw_good().add(name, zlib.compress(content * 9)[2:40], method=8, size=999).bytes(),
        "hidden-behind-deflate": lambda: (
            raw_good()
            .add(name, zlib.compress(content)[2:-4] + b"hidden", method=8, size=len(content), crc=zlib.crc32(content))
            .bytes()
        ),
        "no-files": lambda: zipped({}),
        "folders-alone": lambda: zipped({"train/": b"", "train/cat/": b""}),
        "clutter-alone": lambda: zipped({"__MACOSX/._x": b"", ".DS_Store": b"1"}),
    }


def _zip_kinds() -> dict[str, Callable[[], bytes]]:
    name = b"train/cat/x.png"
    modes = {"link": 0o120777, "device": 0o060644, "terminal": 0o020644, "pipe": 0o010644, "socket": 0o140644}
    made: dict[str, Callable[[], bytes]] = {
        kind: lambda mode=mode: raw_good().add(name, b"/etc/passwd", mode=mode).bytes()  # type: ignore[misc]
        for kind, mode in modes.items()
    }
    return {
        **made,
        "encrypted": lambda: raw_good().add(name, png(), flags=1).bytes(),
        "strongly-encrypted": lambda: raw_good().add(name, png(), flags=0x41).bytes(),
        "masked-headers": lambda: raw_good().add(name, png(), flags=0x2000).bytes(),
        "folder-with-content": lambda: raw_good().add(b"train/cat/sub/", png(), mode=0o040755).bytes(),
        "file-said-to-be-folder": lambda: raw_good().add(name, png(), mode=0o040755).bytes(),
        "folder-said-to-be-link": lambda: raw_good().add(b"train/dog/", b"", mode=0o120777).bytes(),
    }


def _nested() -> dict[str, Callable[[], bytes]]:
    inner = zipped(good_members())
    layers = {f"lib {number}.zip": zipped({"doc 0.zip": inner}) for number in range(16)}
    tar = _tarred(good_members())
    return {
        "42": lambda: zipped(layers),
        "zip-as-image": lambda: with_member("train/cat/x.png", inner),
        "tar-as-image": lambda: with_member("train/cat/x.png", tar),
        "gzip-as-image": lambda: with_member("train/cat/x.png", gzip.compress(png())),
        "xz-as-image": lambda: with_member("train/cat/x.png", lzma.compress(png())),
        "bzip2-as-image": lambda: with_member("train/cat/x.png", bz2.compress(png())),
        "7z-as-image": lambda: with_member("train/cat/x.png", b"7z\xbc\xaf\x27\x1c" + bytes(50)),
        "rar-as-image": lambda: with_member("train/cat/x.png", b"Rar!\x1a\x07\x01\x00" + bytes(50)),
        "zstd-as-image": lambda: with_member("train/cat/x.png", b"\x28\xb5\x2f\xfd" + bytes(50)),
        "tar-in-tar": lambda: _tarred({"inner.tar": tar}),
        "zip-in-tar": lambda: _tarred({"inner.zip": inner}),
        "gzipped-zip": lambda: gzip.compress(inner),
        "gzipped-gzip": lambda: gzip.compress(gzip.compress(tar)),
        "zip-of-gzipped-zip": lambda: zipped({"a.csv.gz": gzip.compress(inner)}),
        "quine": lambda: zipped({"r.zip": zipped({"r.zip": inner})}),
    }


def _duplicates() -> dict[str, Callable[[], bytes]]:
    composed, decomposed = (unicodedata.normalize(form, "train/cat/é.png") for form in ("NFC", "NFD"))
    twins = {
        "same": ("train/cat/0.png", "train/cat/0.png"),
        "case": ("train/cat/a.png", "train/cat/A.png"),
        "folder-case": ("train/cat/a.png", "train/CAT/a.png"),
        "accents": (composed, decomposed),
        "ligature": ("train/cat/ﬁ.png", "train/cat/fi.png"),
        "sharp-s": ("train/cat/ß.png", "train/cat/ss.png"),
        "fullwidth": ("train/cat/\uff41.png", "train/cat/a.png"),
        "dot-slash": ("train/cat/a.png", "./train/cat/a.png"),
        "file-and-folder": ("train/cat", "train/cat/a.png"),
        "file-and-upper-folder": ("train", "train/cat/a.png"),
    }
    made: dict[str, Callable[[], bytes]] = {}
    for name, pair in twins.items():
        made[f"zip-{name}"] = lambda pair=pair: _raw_pair(pair)  # type: ignore[misc]
        made[f"tar-{name}"] = lambda pair=pair: _tarred([(each, png(1)) for each in pair])  # type: ignore[misc]
    return made


def _raw_pair(pair: tuple[str, str]) -> bytes:
    archive = RawZip()
    for name in pair:
        archive.add(name.encode(), png(1), flags=0x800)
    return archive.bytes()


def _zip_named(name: bytes) -> bytes:
    return raw_good().add(name, png(3), flags=0x800).bytes()


def _zip_raw_names() -> dict[str, Callable[[], bytes]]:
    raw = {
        "nul": b"train/cat/x.png\0.exe",
        "overlong-slash": b"train/cat/..\xc0\xafevil.png",
        "overlong-dot": b"train/\xc0\xae\xc0\xae/evil.png",
        "overlong-three": b"train/cat/\xe0\x80\xafevil.png",
        "overlong-four": b"train/cat/\xf0\x80\x80\xafevil.png",
        "folder-parent": b"../evil/",
    }
    return {
        f"raw-{name}": lambda path=path: raw_good().add(path, b"" if path.endswith(b"/") else png(3), mode=0).bytes()  # type: ignore[misc]
        for name, path in raw.items()
    }


def _tarred(members: dict[str, bytes] | list[tuple[str, bytes]], *, mode: str = "w") -> bytes:
    held = io.BytesIO()
    pairs = members.items() if isinstance(members, dict) else members
    with tarfile.open(fileobj=held, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return held.getvalue()


def _tar_named(name: str) -> bytes:
    return _tarred([*good_members().items(), (name, png(3))])


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    sum_off: int = 0,
    prefix: bytes = b"",
) -> bytes:
    """One header block of a tar, each field as it is given."""
    told = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    for at, field in ((0, name[:100]), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, told),
                      (136, b"00000000000\0"), (148, b" " * 8), (156, kind), (157, link[:100]), (257, magic),
                      (345, prefix)):  # fmt: skip
        block[at : at + len(field)] = field
    block[148:156] = b"%06o\0 " % (sum(block) + sum_off)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def _tar(*blocks: bytes, end: bytes = bytes(1024)) -> bytes:
    good = b"".join(
        header(name.encode(), size=len(content)) + padded(content) for name, content in good_members().items()
    )
    return good + b"".join(blocks) + end


def _tar_kinds() -> dict[str, Callable[[], bytes]]:
    kinds = {
        "hard-link": b"1", "link": b"2", "terminal": b"3", "device": b"4", "pipe": b"6", "sparse": b"S", "dump": b"D",
        "next-volume": b"M", "old-name": b"N", "label": b"V", "long-link": b"K", "unknown": b"Z", "solaris": b"X",
        "solaris-acl": b"A",
    }  # fmt: skip
    made: dict[str, Callable[[], bytes]] = {
        name: lambda kind=kind: _tar(header(b"train/cat/evil.png", kind=kind, link=b"/etc/passwd"))  # type: ignore[misc]
        for name, kind in kinds.items()
    }
    return {
        **made,
        "link-to-parent": lambda: _tar(header(b"train/dog", kind=b"2", link=b"../../..")),
        "link-then-through-it": lambda: _tar(
            header(b"train/dog", kind=b"2", link=b"/tmp"), header(b"train/dog/evil.png", size=4), padded(b"evil")
        ),
        "hard-link-to-shadow": lambda: _tar(header(b"train/cat/9.png", kind=b"1", link=b"/etc/shadow")),
        "link-chain": lambda: _tar(
            *(header(b"train/cat/l%d" % each, kind=b"2", link=b"l%d" % (each + 1)) for each in range(50))
        ),
        "folder-with-content": lambda: _tar(header(b"train/dog/", kind=b"5", size=4), padded(b"evil")),
    }


def _pax(*records: bytes, kind: bytes = b"x", content: bytes | None = None) -> bytes:
    body = b"".join(records) if content is None else content
    return header(b"PaxHeaders/x", kind=kind, size=len(body)) + padded(body)


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def _tar_pax() -> dict[str, Callable[[], bytes]]:
    file = header(b"train/cat/x.png", size=4) + padded(b"evil")
    paths = {"parent": b"../../evil", "root": b"/tmp/evil", "nul": b"a\0b", "bidi": "a\u202eb".encode(), "empty": b""}
    made: dict[str, Callable[[], bytes]] = {
        f"path-{name}": lambda path=path: _tar(_pax(_record(b"path", path)), file)  # type: ignore[misc]
        for name, path in paths.items()
    }
    return {
        **made,
        "path-twice": lambda: _tar(_pax(_record(b"path", b"a/b"), _record(b"path", b"a/c")), file),
        "two-headers": lambda: _tar(_pax(_record(b"path", b"a/b")), _pax(_record(b"size", b"4")), file),
        "path-and-long-name": lambda: _tar(
            header(b"././@LongLink", kind=b"L", size=4), padded(b"a/b\0"), _pax(_record(b"path", b"a/c")), file
        ),
        "long-name-parent": lambda: _tar(header(b"././@LongLink", kind=b"L", size=8), padded(b"../evil\0"), file),
        "long-name-of-a-gigabyte": lambda: _tar(header(b"././@LongLink", kind=b"L", size=1 << 30), file),
        "long-name-twice": lambda: _tar(
            *(header(b"././@LongLink", kind=b"L", size=4) + padded(b"a/b\0") for _ in range(2)), file
        ),
        "size-negative": lambda: _tar(_pax(_record(b"size", b"-5")), file),
        "size-words": lambda: _tar(_pax(_record(b"size", b"many")), file),
        "size-of-forty-digits": lambda: _tar(_pax(_record(b"size", b"9" * 40)), file),
        "size-fraction": lambda: _tar(_pax(_record(b"size", b"4.0")), file),
        "link-path": lambda: _tar(_pax(_record(b"linkpath", b"/etc/passwd")), file),
        "sparse-map": lambda: _tar(_pax(_record(b"GNU.sparse.major", b"1"), _record(b"GNU.sparse.map", b"0,9")), file),
        "sparse-name": lambda: _tar(_pax(_record(b"GNU.sparse.name", b"/tmp/evil")), file),
        "character-set": lambda: _tar(_pax(_record(b"hdrcharset", b"BINARY")), file),
        "global-path": lambda: _tar(_pax(_record(b"path", b"evil"), kind=b"g"), file),
        "global-size": lambda: _tar(_pax(_record(b"size", b"1"), kind=b"g"), file),
        "record-without-length": lambda: _tar(_pax(content=b"path=evil\n"), file),
        "record-of-length-zero": lambda: _tar(_pax(content=b"0 path=evil\n"), file),
        "record-longer-than-header": lambda: _tar(_pax(content=b"9999 path=evil\n"), file),
        "record-of-huge-length": lambda: _tar(_pax(content=b"9999999999999999999 path=evil\n"), file),
        "record-without-equals": lambda: _tar(_pax(content=b"12 pathevil\n"), file),
        "header-of-a-megabyte": lambda: _tar(_pax(_record(b"comment", b"c" * (1 << 20))), file),
    }


def _tar_lies() -> dict[str, Callable[[], bytes]]:
    return {
        "size-not-octal": lambda: _tar(header(b"train/cat/x.png", size=b"99999999999\0")),
        "size-words": lambda: _tar(header(b"train/cat/x.png", size=b"0x100000000\0")),
        "size-negative": lambda: _tar(header(b"train/cat/x.png", size=b"\xff" * 12)),
        "behind-the-end": lambda: _tar(end=bytes(1024) + header(b"../evil.png") + bytes(1024)),
        "zip-behind-the-end": lambda: _tar(end=bytes(1024) + zipped(good_members())),
        "prefix-parent": lambda: _tar(header(b"evil.png", prefix=b"../..")),
        "too-many-entries": lambda: header(b"d/", kind=b"5") * 200_100 + bytes(1024),
    }


def _tar_damaged() -> dict[str, Callable[[], bytes]]:
    good = _tarred(good_members())
    made: dict[str, Callable[[], bytes]] = {
        f"cut-at-{size}": lambda size=size: good[:size]
        for size in (513, 1_100, 2_000, 4_096)  # type: ignore[misc]
    }
    return {
        **made,
        "no-end": lambda: _tar(end=b""),
        "wrong-sum": lambda: _tar(header(b"train/cat/x.png", sum_off=5)),
        "size-past-the-end": lambda: _tar(header(b"train/cat/x.png", size=1 << 32)),
        "size-of-64-bits": lambda: _tar(header(b"train/cat/x.png", size=b"\x80" + b"\0" * 3 + b"\x7f" * 8)),
        "pax-size-past-the-end": lambda: _tar(_pax(_record(b"size", b"99999999999")), header(b"train/cat/x.png")),
        "empty": lambda: bytes(10_240).replace(b"\0", b"\0"),
        "random-middle": lambda: good[:1024] + random.Random(0).randbytes(2048) + good[3072:],
    }


def _compressed() -> dict[str, Callable[[], bytes]]:
    return {
        "tar-of-zeros": lambda: _gzip_of(_tar(header(b"train/cat/x.png", size=100 << 20), end=b""), 100),
        "csv-of-letters": lambda: _gzip_of(b"text,label\n", 100, chunk=(b"a" * 200 + b",1\n") * 5_000),
        "bzip2-of-zeros": lambda: _streams(bz2.compress, _tar(header(b"x.png", size=100 << 20), end=b""), 25),
        "xz-of-zeros": lambda: _streams(lzma.compress, _tar(header(b"x.png", size=100 << 20), end=b""), 25),
        "xz-with-a-large-dictionary": _large_dictionary,
        "several-streams": lambda: _streams(gzip.compress, _tar(end=b""), 25),
        "name-in-the-header": lambda: _gzip_named(b"../../evil", _tar(header(b"../x.png"))),
    }


def _gzip_of(first: bytes, megabytes: int, *, chunk: bytes = bytes(1 << 20)) -> bytes:
    """A gzip file of the first bytes and then the chunk, again and again."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    begin = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + begin + deflated(megabytes, chunk=chunk) + bytes(8)


def _idx_bomb() -> bytes:
    images = _gzip_of(b"\0\0\x08\x03" + struct.pack(">III", 100 << 10, 32, 32), 100)
    labels = b"\0\0\x08\x01" + struct.pack(">I", 100 << 10) + b"\0\1" * (50 << 10)
    return zipped({"train-images-idx3-ubyte.gz": images, "train-labels-idx1-ubyte": labels})


def _streams(compress: Callable[[bytes], bytes], first: bytes, count: int) -> bytes:
    """Several compressed streams in a row: the first bytes, and then four megabytes of zeros again and again."""
    return compress(first) + compress(bytes(4 << 20)) * count


def _gzip_named(name: bytes, content: bytes) -> bytes:
    plain = gzip.compress(content)
    return plain[:3] + b"\x08" + plain[4:10] + name + b"\0" + plain[10:]


def _large_dictionary() -> bytes:
    """A stream that says its dictionary has 1.5 GiB; the bytes of its header are mended so that its sum fits."""
    packed = bytearray(lzma.compress(_tar(), format=lzma.FORMAT_XZ))
    length = (packed[12] + 1) * 4
    place = packed.index(b"\x21\x01", 12, 12 + length) + 2
    packed[place] = 39
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(bytes(packed[12 : 12 + length - 4])))
    return bytes(packed)


def _compressed_damaged() -> dict[str, Callable[[], bytes]]:
    good = gzip.compress(_tarred(good_members()))
    return {
        "cut": lambda: good[: len(good) // 2],
        "cut-at-the-sum": lambda: good[:-4],
        "wrong-sum": lambda: good[:-8] + bytes(8),
        "garbage-behind": lambda: good + b"garbage",
        "garbage-within": lambda: good[:200] + bytes(40) + good[240:],
        "reserved-flags": lambda: good[:3] + b"\xe0" + good[4:],
        "nothing": lambda: good[:10],
        "csv-of-zeros": lambda: _gzip_of(b"text,label\n", 100),
        "empty-content": lambda: gzip.compress(b""),
    }
