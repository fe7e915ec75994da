"""Hostile images in a sound archive: bombs, lies, other formats under false names, two things in one file."""

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.hostile.cases import HOSTILE, UNREADABLE, Case, good_members, many, png, with_member, zipped, zlibbed
from tests.hostile.payloads import Payload, programs

_Made = dict[str, Callable[[], bytes]]


def cases() -> Iterator[Case]:
    for refused_as, family, made in (
        (UNREADABLE, "image-bomb", _bombs()),
        (UNREADABLE, "image-damaged", _damaged()),
        (UNREADABLE, "image-foreign", _foreign()),
        (HOSTILE, "image-polyglot", _polyglots()),
    ):
        for name, content in made.items():
            yield Case(family, name, refused_as, lambda content=content: with_member("train/cat/x.png", content()))  # type: ignore[misc]
    yield from many("folders", UNREADABLE, _folders())


def chunk(kind: bytes, content: bytes, *, crc: int | None = None, length: int | None = None) -> bytes:
    """One chunk of a PNG."""
    told = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", told)


def png_of(
    width: int,
    height: int,
    *,
    kind: int = 2,
    depth: int = 8,
    data: bytes | None = None,
    more: bytes = b"",
    lace: int = 0,
) -> bytes:
    """A PNG whose header says so; the data may say otherwise."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, lace)
    body = zlib.compress(bytes(100)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def saved(kind: str, *, size: int = 40, **options: object) -> bytes:
    held = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(held, kind, **options)
    return held.getvalue()


def webp_canvas(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\0" * 4
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg_of(width: int, height: int) -> bytes:
    plain = bytearray(saved("JPEG"))
    at = plain.index(b"\xff\xc0")
    plain[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(plain)


def _bombs() -> _Made:
    text = zlibbed(80, chunk=b"a" * (1 << 20))
    return {
        "png-60000-squared": lambda: png_of(60_000, 60_000),
        "png-60000-squared-with-data": lambda: png_of(60_000, 60_000, data=zlibbed(120)),
        "png-30000-squared-grey": lambda: png_of(30_000, 30_000, kind=0, depth=1),
        "png-2-to-the-31": lambda: png_of(2**31 - 1, 2**31 - 1),
        "png-2-to-the-32": lambda: png_of(2**32 - 1, 2**32 - 1),
        "png-thread": lambda: png_of(1_000_000, 4),
        "png-needle": lambda: png_of(4, 1_000_000),
        "png-side-of-20001": lambda: png_of(20_001, 10),
        "png-16-bit-7000-squared": lambda: png_of(7_000, 7_000, depth=16),
        "png-interlaced-60000": lambda: png_of(60_000, 60_000, lace=1),
        "png-palette-60000": lambda: png_of(60_000, 60_000, kind=3, more=chunk(b"PLTE", bytes(768))),
        "png-text-of-80-megabytes": lambda: png_of(8, 8, more=chunk(b"zTXt", b"k\0\0" + text)),
        "png-profile-of-80-megabytes": lambda: png_of(8, 8, more=chunk(b"iCCP", b"k\0\0" + text)),
        "webp-canvas-16-million": lambda: webp_canvas(1 << 24, 1 << 24),
        "webp-canvas-16000": lambda: webp_canvas(16_000, 16_000),
        "jpeg-65500-squared": lambda: jpeg_of(65_500, 65_500),
        "jpeg-20001-wide": lambda: jpeg_of(20_001, 40),
        "webp-animated": lambda: saved("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 40))] * 3),
        "png-animated": lambda: saved("PNG", save_all=True, append_images=[Image.new("RGB", (40, 40))] * 3),
        "file-of-51-megabytes": lambda: png() + bytes(51 << 20),
    }


def _damaged() -> _Made:
    made: _Made = {}
    for kind in ("PNG", "JPEG", "WEBP"):
        for percent in (3, 30, 70):
            made[f"{kind.lower()}-cut-at-{percent}"] = lambda kind=kind, percent=percent: (
                lambda whole: whole[: len(whole) * percent // 100]
            )(saved(kind))  # type: ignore[misc]
    whole = saved("PNG")
    return {
        **made,
        "empty": lambda: b"",
        "one-byte": lambda: b"\x89",
        "magic-alone": lambda: b"\x89PNG\r\n\x1a\n",
        "jpeg-magic-alone": lambda: b"\xff\xd8\xff\xe0",
        "webp-magic-alone": lambda: b"RIFF\x04\0\0\0WEBP",
        "random": lambda: random.Random(1).randbytes(500),
        "zeros": lambda: bytes(500),
        "png-header-checksum": lambda: whole[:29] + b"\0\0\0\0" + whole[33:],
        "png-side-of-0": lambda: png_of(0, 8),
        "png-depth-of-3": lambda: png_of(8, 8, depth=3),
        "png-kind-of-9": lambda: png_of(8, 8, kind=9),
        "png-chunk-of-2-gigabytes": lambda: whole[:33] + struct.pack(">I", 0x7FFFFFFF) + b"iCCP" + whole[33:],
        "png-chunk-of-negative-length": lambda: whole[:33] + struct.pack(">I", 0xFFFFFFFF) + b"zTXt" + whole[33:],
        "png-data-garbage": lambda: png_of(8, 8, data=b"garbage" * 9),
        "png-data-short": lambda: png_of(400, 400, data=zlib.compress(bytes(9))),
        "jpeg-endless-markers": lambda: b"\xff\xd8" + b"\xff\xe0\x00\x02" * 20_000,
        "jpeg-quantisation-missing": lambda: (
            b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03" + bytes(9) + b"\xff\xd9"
        ),
        "webp-length-lies": lambda: b"RIFF" + b"\xff" * 4 + saved("WEBP")[8:40],
        "webp-chunk-lies": lambda: saved("WEBP")[:16] + b"\xff\xff\xff\x7f" + saved("WEBP")[20:],
    }


def _foreign() -> _Made:
    fits = (
        b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + b"END".ljust(2720)
    )
    made: _Made = {
        kind.lower(): lambda kind=kind: saved(kind)
        for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "JPEG2000")
    }  # type: ignore[misc]
    return {
        **made,
        "fits": lambda: fits,
        "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "psd": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(20),
        "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>',
        "html": lambda: b"<!DOCTYPE html><html></html>",
        "pdf": lambda: b"%PDF-1.7\n",
        "lfs-pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
        "parquet": lambda: b"PAR1" + bytes(100) + b"PAR1",
        "safetensors": lambda: struct.pack("<Q", 2) + b"{}",
        **{f"pickle-{each}": lambda each=each: pickle.dumps(Payload(), each) for each in range(6)},  # type: ignore[misc]
    }


def _polyglots() -> _Made:
    archive = zipped(good_members())
    return {
        "png-and-zip": lambda: png() + archive,
        "jpeg-and-zip": lambda: saved("JPEG") + archive,
        "webp-and-zip": lambda: saved("WEBP") + archive,
        "png-and-zip-that-fits": _fitting_zip,
        **{name: lambda content=content: content for name, content in programs().items()},  # type: ignore[misc]
    }


def _fitting_zip() -> bytes:
    held = io.BytesIO(png())
    held.seek(0, 2)
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr("evil.txt", "evil")
    return held.getvalue()


def _folders() -> _Made:
    good = good_members()
    cats = {name: content for name, content in good.items() if "cat" in name}
    return {
        "one-class": lambda: zipped(cats),
        "one-class-flat": lambda: zipped({name.removeprefix("train/"): content for name, content in cats.items()}),
        "loose-image": lambda: zipped({**good, "x.png": png()}),
        "loose-image-in-split": lambda: zipped({**good, "train/x.png": png()}),
        "images-alone": lambda: zipped({f"{number}.png": png(number) for number in range(9)}),
        "too-deep": lambda: zipped({**good, "train/cat/more/x.png": png()}),
        "foreign-folder": lambda: zipped({**good, "other/cat/x.png": png()}),
        "two-validations": lambda: zipped({**good, "val/cat/x.png": png(), "valid/cat/y.png": png(1)}),
        "class-in-test-alone": lambda: zipped({**good, "test/dog/x.png": png(5), "test/cat/x.png": png(4)}),
        "no-training": lambda: zipped({"test/cat/x.png": png(), "val/cat/x.png": png(1), "val/dog/x.png": png(2)}),
        "all-the-same": lambda: zipped({name: png(1) for name in good}),
        "one-image-each": lambda: zipped({"cat/a.png": png(1), "dog/a.png": png(2)}),
        "text-alone": lambda: zipped({"README.txt": b"nothing here", "LICENSE": b"none"}),
        "every-image-broken": lambda: zipped(dict.fromkeys(good, b"broken")),
        "long-class-name": lambda: zipped({**good, f"train/{'c' * 220}/x.png": png()}),
    }
