"""Small sound data sets of every format, and seeded ways to damage them."""

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.hostile.cases import png, zipped
from tests.hostile.data_arrays import idx_pair, npz
from tests.hostile.data_tables import table

_PIXELS = np.random.default_rng(5).integers(0, 256, (12, 12, 12, 3), dtype=np.uint8)


def _picture(number: int, kind: str) -> bytes:
    held = io.BytesIO()
    Image.fromarray(_PIXELS[number]).save(held, kind)
    return held.getvalue()


def _folder(kind: str, *, method: int = zipfile.ZIP_STORED) -> bytes:
    names = (f"{label}/{number}.{kind.lower()}" for label in ("cat", "dog") for number in range(3))
    return zipped({name: _picture(place, kind) for place, name in enumerate(names)}, method=method)


def _tar() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"{'cat' if number % 2 else 'dög'}/{number}.png")
            content = png(number)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return held.getvalue()


def _csv() -> bytes:
    rows = [f'"a ""text"" of, number {number}",{"ab"[number % 2]}\r\n' for number in range(12)]
    return ("text,label\r\n" + "".join(rows)).encode()


def sound() -> dict[str, bytes]:
    """One file of each format, by its ending."""
    labels = [number % 2 for number in range(12)]
    return {
        "deflated.zip": _folder("PNG", method=zipfile.ZIP_DEFLATED),
        "tar": _tar(),
        "png.zip": _folder("PNG"),
        "jpeg.zip": _folder("JPEG"),
        "webp.zip": _folder("WEBP"),
        "npz": npz(),
        "idx.zip": idx_pair(),
        "text.parquet": table({"text": [f"text {number}" for number in range(12)], "label": labels}),
        "image.parquet": table({"image": [_picture(number, "PNG") for number in range(12)], "label": labels}),
        "csv": _csv(),
        "jsonl": b"".join(b'{"text": "text %d", "label": %d}\n' % pair for pair in zip(range(12), labels, strict=True)),
    }


def mutated(content: bytes, seed: int) -> bytes:
    """The content, damaged in one to four places in ways that the seed draws."""
    chance = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        chance.choice(_WAYS)(damaged, chance)
    return bytes(damaged)


def _flip(content: bytearray, chance: random.Random) -> None:
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content) + 1)
    content[at : at + chance.randint(1, 8)] = chance.randbytes(chance.randint(1, 8))


def _extreme(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content) + 1)
    value = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\xff\xff\xff\x7f"))
    content[at : at + len(value)] = value


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def _remove(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content) + 1)
    del content[at : at + chance.randint(1, 200)]


def _repeat(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content) + 1)
    content[at:at] = content[at : at + chance.randint(1, 200)]


def _at_the_end(content: bytearray, chance: random.Random) -> None:
    """Directories and footers lie there."""
    at = max(0, len(content) - chance.randint(1, 120))
    content[at : at + 1] = chance.randbytes(1)


_WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _overwrite, _extreme, _cut, _remove, _repeat, _at_the_end, _at_the_end,
)  # fmt: skip


def all_mutations(count: int) -> Iterator[tuple[str, int, bytes]]:
    """`count` damaged files: the ending, the seed and the content of each."""
    originals = list(sound().items())
    for seed in range(count):
        ending, content = originals[seed % len(originals)]
        yield ending, seed, mutated(content, seed)
