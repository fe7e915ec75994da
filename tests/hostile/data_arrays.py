"""Hostile idx files and NumPy archives: headers that lie, objects, shapes that no memory holds."""

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.hostile.cases import HOSTILE, UNREADABLE, Case, many, zeros_deflated, zipped
from tests.hostile.payloads import Payload

_Made = dict[str, Callable[[], bytes]]
_IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
_LABELS = np.arange(20, dtype=np.uint8) % 2


def cases() -> Iterator[Case]:
    yield from many("idx", UNREADABLE, _idx(), ending=".zip")
    yield from many("idx", HOSTILE, {"dimensions-of-4-billion": lambda: idx_pair(head=_head(3, *[2**32 - 1] * 3))})
    yield from many("idx-alone", UNREADABLE, _idx_alone(), ending="-images-idx3-ubyte")
    yield from many("npz", HOSTILE, _npz_hostile(), ending=".npz")
    yield from many("npz", UNREADABLE, _npz(), ending=".npz")


def _head(dimensions: int, *sides: int, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(sides)}I", 0, 0, kind, dimensions, *sides)


def idx_pair(*, head: bytes | None = None, images: bytes | None = None, labels: bytes | None = None) -> bytes:
    """A zip of one file of images and one of labels."""
    body = _IMAGES.tobytes() if images is None else images
    plain = _head(1, 20) + _LABELS.tobytes() if labels is None else labels
    pictures = (_head(3, 20, 4, 4) if head is None else head) + body
    return zipped({"train-images-idx3-ubyte": pictures, "train-labels-idx1-ubyte": plain})


def _idx() -> _Made:
    return {
        "cut": lambda: idx_pair(images=_IMAGES.tobytes()[:100]),
        "surplus": lambda: idx_pair(images=_IMAGES.tobytes() + b"more"),
        "header-cut": lambda: idx_pair(head=b"\0\0\x08\x03\0\0", images=b""),
        "no-values": lambda: idx_pair(images=b""),
        "no-images": lambda: idx_pair(head=_head(3, 0, 4, 4), images=b""),
        "side-of-0": lambda: idx_pair(head=_head(3, 20, 0, 4), images=b""),
        "says-a-billion-images": lambda: idx_pair(head=_head(3, 10**9, 4, 4)),
        "says-huge-images": lambda: idx_pair(head=_head(3, 20, 60_000, 60_000)),
        "floats": lambda: idx_pair(head=_head(3, 20, 4, 4, kind=0x0D)),
        "integers": lambda: idx_pair(head=_head(3, 20, 4, 4, kind=0x0C)),
        "eight-dimensions": lambda: idx_pair(head=_head(8, *[1] * 8)),
        "two-dimensions": lambda: idx_pair(head=_head(2, 20, 16)),
        "other-count-of-labels": lambda: idx_pair(labels=_head(1, 19) + _LABELS.tobytes()[:19]),
        "labels-cut": lambda: idx_pair(labels=_head(1, 20) + b"\0\1"),
        "labels-say-4-billion": lambda: idx_pair(labels=_head(1, 2**32 - 1) + _LABELS.tobytes()),
        "labels-of-one-class": lambda: idx_pair(labels=_head(1, 20) + bytes(20)),
        "labels-alone": lambda: zipped({"train-labels-idx1-ubyte": _head(1, 20) + _LABELS.tobytes()}),
        "images-without-labels": lambda: zipped({"train-images-idx3-ubyte": _head(3, 20, 4, 4) + _IMAGES.tobytes()}),
        "gzip-cut": lambda: zipped(
            {
                "train-images-idx3-ubyte.gz": gzip.compress(_head(3, 20, 4, 4) + _IMAGES.tobytes())[:-90],
                "train-labels-idx1-ubyte": _head(1, 20) + _LABELS.tobytes(),
            }
        ),
        "three-of-a-kind": lambda: zipped({f"{each}-images": _head(3, 1, 4, 4) + bytes(16) for each in "abc"}),
    }


def _idx_alone() -> _Made:
    return {
        "images": lambda: _head(3, 20, 4, 4) + _IMAGES.tobytes(),
        "header": lambda: _head(3, 20, 4, 4),
        "magic": lambda: b"\0\0\x08\x03",
    }


def npy(header: bytes | str, data: bytes = b"", *, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    """A `.npy` file with this header, right or wrong."""
    text = header.encode() if isinstance(header, str) else header
    told = len(text) if length is None else length
    return b"\x93NUMPY" + version + told.to_bytes(2 if version[:1] == b"\1" else 4, "little") + text + data


def _plain(array: Any, **options: bool) -> bytes:
    held = io.BytesIO()
    np.save(held, array, **options)
    return held.getvalue()


def npz(images: bytes | None = None, labels: bytes | None = None, **more: bytes) -> bytes:
    """An archive of images and labels, either of them as given."""
    members = {
        "x_train.npy": _plain(_IMAGES) if images is None else images,
        "y_train.npy": _plain(_LABELS.astype(np.int64)) if labels is None else labels,
    }
    return zipped(members | {f"{name}.npy": content for name, content in more.items()})


def _said(shape: str, descr: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def _npz_hostile() -> _Made:
    return {
        "objects-as-labels": lambda: npz(labels=_plain(np.array([Payload()] * 20, dtype=object), allow_pickle=True)),
        "objects-as-images": lambda: npz(_plain(np.array([Payload()] * 20, dtype=object), allow_pickle=True)),
        "objects-in-a-record": lambda: npz(npy(_said("(20,)", "[('a', '|O')]"), pickle.dumps(Payload()))),
        "shape-of-2-to-the-60": lambda: npz(npy(_said(f"({2**60},)"), bytes(320))),
        "shape-overflows": lambda: npz(npy(_said(f"({2**32}, {2**32}, 4)"), bytes(320))),
        "shape-of-a-hundred-digits": lambda: npz(npy(_said(f"({10**100}, 4, 4)"), bytes(320))),
        "header-of-4-gigabytes": lambda: npz(npy(_said("(20, 4, 4)"), version=b"\2\0", length=2**32 - 1)),
        "header-of-a-megabyte": lambda: npz(npy(_said("(20, 4, 4)") + " " * (1 << 20), version=b"\2\0")),
        "bomb": _npz_bomb,
        "overlapping": lambda: npz()[:-22] + b"PK\5\6" + bytes(18),
        "name-of-the-parent": lambda: zipped({"../x_train.npy": _plain(_IMAGES), "y_train.npy": _plain(_LABELS)}),
    }


def _npz_bomb() -> bytes:
    from tests.hostile.cases import RawZip

    packed, size, crc = zeros_deflated(100)
    archive = RawZip().add(b"x_train.npy", packed, method=8, size=size, crc=crc)
    return archive.add(b"y_train.npy", _plain(_LABELS)).bytes()


def _npz() -> _Made:
    floats = _IMAGES.astype(np.float32) / 255
    shapes = {
        "says-more": _said("(4000000, 4, 4)"),
        "says-less": _said("(19, 4, 4)"),
        "says-huge-images": _said("(20, 50000, 50000)"),
        "negative": _said("(-20, 4, 4)"),
        "fraction": _said("(20.0, 4, 4)"),
        "words": _said("'many'"),
        "no-dimensions": _said("()"),
        "five-dimensions": _said("(20, 1, 4, 4, 1)"),
        "empty": _said("(0, 4, 4)"),
        "transposed-and-huge": _said("(4000000, 40, 40)", order="True"),
        "call": "__import__('os').system('touch \"$DISTILLERY_MARKER\"')\n",
        "lambda": "(lambda: {'descr': '|u1'})()\n",
        "deep": "(" * 3_000 + ")" * 3_000 + "\n",
        "deep-list": "[" * 4_000 + "\n",
        "long-number": _said(f"({'9' * 5_000}, 4, 4)"),
        "no-keys": "{}\n",
        "more-keys": "{'descr': '|u1', 'fortran_order': False, 'shape': (20, 4, 4), 'x': 1}\n",
        "unknown-type": _said("(20, 4, 4)", "'|z9'"),
        "subarray": _said("(20,)", "('|u1', (4, 4))"),
        "record": _said("(20,)", "[('a', '|u1')]"),
        "dates": _said("(20, 4, 4)", "'<M8[s]'"),
        "complex": _said("(20, 4, 4)", "'<c8'"),
        "void": _said("(20, 4, 4)", "'|V1'"),
        "text": _said("(20, 4, 4)", "'<U1'"),
        "nothing": "",
        "not-text": b"\xff\xfe\x00",
    }
    made: _Made = {
        f"header-{name}": lambda header=header: npz(npy(header, _IMAGES.tobytes()))  # type: ignore[misc]
        for name, header in shapes.items()
    }
    return {
        **made,
        "header-longer-than-the-file": lambda: npz(npy("x", length=9_000)),
        "version-9": lambda: npz(npy(_said("(20, 4, 4)"), version=b"\x09\0")),
        "no-magic": lambda: npz(b"no array at all"),
        "pickle-as-array": lambda: npz(pickle.dumps(Payload())),
        "floats-beyond-1": lambda: npz(_plain(floats * 9)),
        "floats-not-a-number": lambda: npz(_plain(np.full_like(floats, np.nan))),
        "normalised-floats": lambda: npz(_plain(floats - 0.5)),
        "integers-as-images": lambda: npz(_plain(_IMAGES.astype(np.int64))),
        "two-channels": lambda: npz(_plain(np.zeros((20, 4, 4, 2), dtype=np.uint8))),
        "which-channels": lambda: npz(_plain(np.zeros((20, 3, 4, 3), dtype=np.uint8))),
        "one-hot-labels": lambda: npz(labels=_plain(np.eye(20))),
        "fractions-as-labels": lambda: npz(labels=_plain(_LABELS / 2)),
        "other-count-of-labels": lambda: npz(labels=_plain(_LABELS[:5])),
        "one-class": lambda: npz(labels=_plain(np.zeros(20, dtype=np.int64))),
        "other-names": lambda: zipped({"a.npy": _plain(_IMAGES), "b.npy": _plain(_LABELS)}),
        "labels-missing": lambda: zipped({"x_train.npy": _plain(_IMAGES)}),
        "both-forms": lambda: zipped(dict.fromkeys(("images.npy", "labels.npy", "x_test.npy"), _plain(_IMAGES))),
        "splits-differ": lambda: npz(x_test=_plain(_IMAGES[:, :3]), y_test=_plain(_LABELS)),
        "test-class-is-new": lambda: npz(x_test=_plain(_IMAGES), y_test=_plain(_LABELS + 5)),
        "deflated-cut": lambda: _deflated()[:300],
    }


def _deflated() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", _plain(_IMAGES))
        archive.writestr("y_train.npy", _plain(_LABELS))
    return held.getvalue()
