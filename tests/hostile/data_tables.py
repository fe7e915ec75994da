"""Hostile tables, and files of other kinds under the names of tables: bombs, depths, widths, pickles."""

import gzip
import io
import json
import lzma
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.hostile.cases import HOSTILE, UNREADABLE, Case, many, png
from tests.hostile.payloads import Payload, programs, torch_zip

_Made = dict[str, Callable[[], bytes]]
_ROWS = "".join(f"a text of number {number},{'ab'[number % 2]}\n" for number in range(20))


def cases() -> Iterator[Case]:
    yield from many("csv", HOSTILE, _csv_hostile(), ending=".csv")
    yield from many("csv", UNREADABLE, _csv(), ending=".csv")
    yield from many("jsonl", HOSTILE, _jsonl_hostile(), ending=".jsonl")
    yield from many("jsonl", UNREADABLE, _jsonl(), ending=".jsonl")
    yield from many("parquet", UNREADABLE, _parquet(), ending=".parquet")
    yield from many("parquet", HOSTILE, {"values-of-gigabytes": _repeated_values}, ending=".parquet")
    yield from many("pickled", UNREADABLE, _pickled(), ending=".csv")
    yield from many("pickled", UNREADABLE, _pickled(), ending=".npz")
    yield from many("program", HOSTILE, {name: lambda c=c: c for name, c in programs().items()}, ending=".csv")  # type: ignore[misc]
    yield from many("other", UNREADABLE, _others(), ending=".zip")


def _csv_hostile() -> _Made:
    return {
        "million-columns": lambda: b",".join(b"c%d" % each for each in range(600_000)) + b"\n",
        "million-empty-columns": lambda: b"text,label" + b"," * 1_000_000 + b"\n",
        "1001-columns": lambda: b"text,label," + b",".join(b"c%d" % each for each in range(999)) + b"\n",
        "million-columns-further-down": lambda: b"text,label\nfine,a\n" + b"," * 1_000_000 + b"\nfine,b\n",
        "huge-field": lambda: b"text,label\n" + b"a" * (3 << 20) + b",a\n",
        "huge-line": lambda: b"text,label\n" + b"a" * (12 << 20),
        "one-line-of-20-megabytes": lambda: b"text,label," + b"a" * (20 << 20),
        "quote-never-closed": lambda: b'text,label\n"never closed,a\n' + b"more of it,b\n" * 200_000,
        "row-of-many-lines": lambda: b"text,label\n" + b",".join(b'"' + b"x\n" * 400_000 + b'"' for _ in range(30)),
    }


def _csv() -> _Made:
    head = "text,label\n"
    return {
        "nul": lambda: (head + _ROWS + "fi\0ne,a\n").encode(),
        "nul-in-header": lambda: b"text,la\0bel\nfine,a\n",
        "utf-16": lambda: (head + _ROWS).encode("utf-16"),
        "utf-16-without-mark": lambda: (head + _ROWS).encode("utf-16-le"),
        "latin-1": lambda: (head + _ROWS + "caf\xe9,a\n").encode("latin-1"),
        "half-a-character": lambda: (head + _ROWS).encode() + b"x\xe2\x82,a\n",
        "surrogates": lambda: (head + _ROWS).encode() + b"\xed\xa0\x80,a\n",
        "overlong": lambda: (head + _ROWS).encode() + b"\xc0\xaf,a\n",
        "no-header": lambda: _ROWS.encode(),
        "header-alone": lambda: head.encode(),
        "one-column": lambda: b"text\nfine\nalso fine\n",
        "twin-columns": lambda: b"text,label,Label\nfine,a,b\n",
        "no-label": lambda: b"text,other\nfine,a\nfine,b\n",
        "no-text": lambda: b"other,label\nfine,a\nfine,b\n",
        "one-class": lambda: (head + "one,a\ntwo,a\n" * 9).encode(),
        "all-the-same": lambda: (head + "same,a\nsame,b\n" * 9).encode(),
        "every-label-once": lambda: (head + "".join(f"text {each},{each}\n" for each in range(20))).encode(),
        "ragged": lambda: (head + _ROWS + "one,two,three\n").encode(),
        "empty-text": lambda: (head + _ROWS + " ,a\n").encode(),
        "long-label": lambda: (head + _ROWS + f"fine,{'l' * 300}\n").encode(),
        "bidi-twins": lambda: (head + "one,a\ntwo,a\u202e\nthree,b\n" * 9).encode(),
        "invisible-label": lambda: (head + "one,\u200b\ntwo,a\n" * 9).encode(),
        "spreadsheet-formula-alone": lambda: b"=cmd|'/c calc'!A0,label\n1,2\n",
        "unknown-split": lambda: b"text,label,split\n" + b"fine,a,train\nwell,b,sometime\n" * 9,
        "lines-of-returns": lambda: b"text,label\r" * 5,
    }


def _lines(*lines: Any) -> bytes:
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()


_GOOD = [{"text": f"text {number}", "label": number % 2} for number in range(20)]


def _jsonl_hostile() -> _Made:
    return {
        "2000-keys": lambda: _lines({f"k{each}": 1 for each in range(2_000)}),
        "line-without-end": lambda: b'{"text": "' + b"a" * (12 << 20),
        "line-without-end-further-down": lambda: _lines(*_GOOD) + b'{"text": "' + b"a" * (12 << 20),
    }


def _jsonl() -> _Made:
    def after(line: str | bytes) -> Callable[[], bytes]:
        return lambda: _lines(*_GOOD) + (line if isinstance(line, bytes) else line.encode()) + b"\n"

    deep = {"lists": "[" * 200_000, "objects": '{"a":' * 200_000, "lists-closed": "[" * 100_000 + "]" * 100_000}
    return {
        **{f"deep-{name}": after('{"text": ' + text) for name, text in deep.items()},
        **{
            f"deep-{name}-at-once": lambda text=text: ('{"text": ' + text + "\n").encode()
            for name, text in deep.items()
        },  # type: ignore[misc]
        "number-of-a-million-digits": after('{"text": "x", "label": ' + "9" * 1_000_000 + "}"),
        "label-out-of-range": after('{"text": "x", "label": 99999999999999999999}'),
        "label-infinite": after('{"text": "x", "label": Infinity}'),
        "label-is-a-list": after('{"text": "x", "label": [1]}'),
        "label-is-a-fraction": after('{"text": "x", "label": 0.5}'),
        "text-is-a-number": after('{"text": 5, "label": 1}'),
        "text-is-missing": after('{"label": 1}'),
        "lone-surrogate": after('{"text": "\\ud800", "label": 1}'),
        "nul-escaped": after('{"text": "a\\u0000b", "label": 1}'),
        "nul": after(b'{"text": "a\0b", "label": 1}'),
        "not-json": after("text, label"),
        "half": after('{"text": "x", "lab'),
        "not-an-object": after("[1, 2]"),
        "one-list": lambda: json.dumps(_GOOD).encode(),
        "indented": lambda: json.dumps(_GOOD[0], indent=1).encode(),
        "latin-1": after(b'{"text": "caf\xe9", "label": 1}'),
        "no-label": lambda: _lines(*({"text": f"x{each}"} for each in range(9))),
        "words-and-numbers": lambda: _lines(*_GOOD, {"text": "x", "label": "word"}),
    }


def table(columns: dict[str, Any], **options: Any) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pa.table(columns), held, **options)
    return held.getvalue()


def _good_parquet() -> bytes:
    return table({"text": [f"text {each}" for each in range(20)], "label": [each % 2 for each in range(20)]})


def _repeated_values() -> bytes:
    """A dictionary of one value of 900 KB, said to be the value of a hundred thousand rows."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["a" * 900_000]))
    return table({"text": words, "label": [each % 2 for each in range(100_000)]}, compression="zstd")


def _parquet() -> _Made:
    labels = [each % 2 for each in range(20)]
    good = _good_parquet
    zeros = lambda size: [bytes(size)] + [b"x"] * 19  # noqa: E731 - a table of one large value
    return {
        "magic-alone": lambda: b"PAR1",
        "magic-twice": lambda: b"PAR1PAR1",
        "garbage-between": lambda: b"PAR1" + random.Random(2).randbytes(900) + b"PAR1",
        "cut": lambda: good()[:-20],
        "cut-in-the-middle": lambda: good()[: len(good()) // 2],
        "footer-of-4-gigabytes": lambda: good()[:-8] + b"\xff\xff\xff\xff" + b"PAR1",
        "footer-of-0": lambda: good()[:-8] + b"\0\0\0\0" + b"PAR1",
        "encrypted": lambda: b"PARE" + good()[4:-4] + b"PARE",
        "pages-overwritten": lambda: good()[:4] + b"\xee" * 400 + good()[404:],
        "footer-overwritten": lambda: good()[:-300] + b"\x15" * 250 + good()[-50:],
        "footer-of-nested-lists": lambda: b"PAR1" + b"\x1c" * 900_000 + struct.pack("<I", 900_000) + b"PAR1",
        "2000-columns": lambda: table({f"c{each}": [1] for each in range(2_000)}),
        "image-of-60-megabytes": lambda: table({"image": zeros(60 << 20), "label": labels}, compression="zstd"),
        "image-of-300-megabytes": lambda: table({"image": zeros(300 << 20), "label": labels}, compression="zstd"),
        "images-that-are-none": lambda: table(
            {"image": [b"no image %d" % each for each in range(20)], "label": labels}
        ),
        "images-of-pickles": lambda: table({"image": [pickle.dumps(Payload())] * 20, "label": labels}),
        "images-missing": lambda: table({"image": pa.array([None] * 20, pa.binary()), "label": labels}),
        "pixels-of-odd-shape": lambda: table({"image": [[1, 2, 3, 4, 5]] * 20, "label": labels}),
        "pixels-out-of-range": lambda: table({"image": [[1, 2, 3, 999]] * 20, "label": labels}),
        "pixels-ragged": lambda: table({"image": [[[1, 2], [3]]] * 20, "label": labels}),
        "pixels-five-deep": lambda: table({"image": [[[[[[1]]]]]] * 20, "label": labels}),
        "images-are-dates": lambda: table({"image": pa.array([0] * 20, pa.date32()), "label": labels}),
        "texts-are-numbers": lambda: table({"text": labels, "label": labels}),
        "no-label": lambda: table({"text": ["a", "b"]}),
        "labels-are-lists": lambda: table({"text": ["a", "b"] * 10, "label": [[each] for each in labels]}),
        "no-rows": lambda: table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}),
        "hugging-face-lies": lambda: _with_metadata(b'{"info": {"features": {"label": {"names": ' + b"[" * 50_000),
    }


def _with_metadata(content: bytes) -> bytes:
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], metadata={b"huggingface": content})
    held = io.BytesIO()
    rows = pa.table({"text": ["same"] * 20, "label": [each % 2 for each in range(20)]}, schema=schema)
    parquet.write_table(rows, held)
    return held.getvalue()


def _pickled() -> _Made:
    plain = {f"protocol-{each}": lambda each=each: pickle.dumps(Payload(), each) for each in range(6)}
    legacy = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"a": 1}))
    return {
        **plain,  # type: ignore[dict-item]
        "gzipped": lambda: gzip.compress(pickle.dumps(Payload(), 2)),
        "xz": lambda: lzma.compress(pickle.dumps(Payload(), 2)),
        "torch": lambda: torch_zip(),
        "torchscript": lambda: torch_zip("model/code/a.py", "model/constants.pkl"),
        "torch-export": lambda: torch_zip("model/archive_format", "model/models/model.json"),
        "torch-package": lambda: torch_zip("model/.data/extern_modules"),
        "torch-legacy": lambda: legacy + pickle.dumps(Payload(), 2),
    }


def _others() -> _Made:
    return {
        "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(600),
        "numpy-alone": lambda: b"\x93NUMPY\1\0\x0c\0{'descr': 1}\n",
        "safetensors": lambda: struct.pack("<Q", 2) + b"{}",
        "arrow": lambda: b"ARROW1\0\0" + bytes(90),
        "pdf": lambda: b"%PDF-1.7\n",
        "html": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
        "lfs-pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "text": lambda: b"only some words\n" * 9,
        "empty": lambda: b"",
        "zeros": lambda: bytes(5_000),
        "random": lambda: random.Random(3).randbytes(5_000),
        "one-image": png,
    }
