"""Parquet files, read by pyarrow in a guarded child that has little memory: what comes out is rows, bytes and words.

Images are bytes of files, the struct of bytes and path that Hugging Face writes, or lists of pixels. Rows are read in
small batches, so that a column of a thousand million equal values costs only what of it is used.
"""

import itertools
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData
from engine.intake import guard, names
from engine.intake.limits import Budget
from engine.intake.tables import BrokenRow, Chosen, Row
from engine.intake.text_tables import LONGEST_FIELD, MOST_COLUMNS, checked

_MEMORY_BYTES = 2 << 30
_DATA_BYTES = 208 << 20
_ROWS_AT_ONCE = 128
_LARGEST_VALUE = 50 << 20
_CPU_SECONDS = 60.0
_HEAD = struct.Struct("<I")
_MEND = "Write it again with pyarrow.parquet.write_table(table, path, row_group_size=1000)."
_IMAGE, _TEXT, _PIXELS = "image", "text", "pixels"


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image that lay in the table as numbers."""

    array: NDArray[np.uint8]
    """uint8 [H, W], [H, W, C] or [C, H, W]."""


class ParquetTable:
    """A parquet file, open in a child. Use `close` when done.

    Raises:
        UnreadableData: it is damaged, needs too much memory, or has too many columns.
    """

    def __init__(self, file: BinaryIO, *, name: str, budget: Budget) -> None:
        self.name, self._budget = name, budget
        self._child = guard.Child(
            lambda channel: _work(channel, file),
            memory_bytes=_MEMORY_BYTES,
            data_bytes=_DATA_BYTES,
            threads=True,
            keep=(file.fileno(),),
        )
        told = self._ask(b"")
        self.header: Sequence[str] = [names.shown(str(name), most=500) for name in told["columns"]]
        self.count = int(told["rows"])
        self.class_names: dict[str, list[str]] = told["classes"]
        self._kinds: list[str] = told["kinds"]
        if len(self.header) > MOST_COLUMNS:
            raise self._wrong(f"has {len(self.header):,} columns; at most {MOST_COLUMNS:,} are read")

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def kind_of(self, place: int) -> str:
        """`image` of a column of bytes, `text`, `pixels` of lists of numbers, else the type as Arrow calls it."""
        return self._kinds[place]

    def rows(self, chosen: Chosen) -> Iterator[Row | BrokenRow | tuple[Row, Pixels]]:
        """Every row in order.

        Raises:
            UnreadableData: it is damaged further on.
        """
        request = {"texts": chosen.texts, "image": chosen.image, "label": chosen.label, "split": chosen.split}
        told = self._ask(json.dumps(request).encode())
        number = 0
        while "done" not in told:
            yield self._row(told, number=number)
            number += 1
            told = self._received()

    def _row(self, told: dict[str, Any], *, number: int) -> Row | BrokenRow | tuple[Row, Pixels]:
        name = f"{self.name}, row {number}"
        if "broken" in told:
            return BrokenRow(name, str(told["broken"]))
        label, split, body = told["label"], told["split"], told["body"]
        if not isinstance(label, str | int | None) or not isinstance(split, str | None):
            return BrokenRow(name, "has a label or a split that is neither a word nor a whole number")
        if told["kind"] == _TEXT:
            return checked(name, body.decode(errors="replace"), label, split)
        fine = checked(name, "an image", label, split)
        if isinstance(fine, BrokenRow):
            return fine
        if told["kind"] == _PIXELS:
            array = _reshaped(body, told["shape"])
            wrong = BrokenRow(name, "has an image of an impossible shape")
            return wrong if array is None else (fine, Pixels(array))
        return Row(name, bytes(body), fine.label, fine.split)

    def _ask(self, request: bytes) -> dict[str, Any]:
        try:
            self._child.send(request)
        except guard.ChildGone as gone:
            raise self._gone(gone) from None
        return self._received()

    def _received(self) -> dict[str, Any]:
        try:
            frame = self._child.receive()
        except guard.ChildGone as gone:
            raise self._gone(gone) from None
        self._budget.spend(len(frame))
        try:
            length = _HEAD.unpack_from(frame)[0]
            told: dict[str, Any] = json.loads(frame[_HEAD.size : _HEAD.size + length])
        except (struct.error, ValueError, RecursionError):
            raise self._wrong("made its reader answer nonsense") from None
        if "error" in told:
            raise self._wrong(f"cannot be read: {names.shown(str(told['error']))}")
        told["body"] = frame[_HEAD.size + length :]
        return told

    def _gone(self, gone: guard.ChildGone) -> UnreadableData:
        return self._wrong(f"cannot be read: it {gone}, or needs more memory than {_DATA_BYTES >> 20} MiB")

    def _wrong(self, what: str) -> UnreadableData:
        self.close()
        return UnreadableData(f"'{self.name}' {what}.", hint=_MEND)


def _reshaped(body: bytearray, shape: Any) -> NDArray[np.uint8] | None:
    sides = [side for side in shape if isinstance(side, int) and side > 0] if isinstance(shape, list) else []
    if len(sides) == 1:
        side = round(sides[0] ** 0.5)
        sides = [side, side]
    if len(sides) not in (2, 3) or int(np.prod(sides, dtype=object)) != len(body):
        return None
    return np.frombuffer(body, dtype=np.uint8).reshape(sides)


def _work(channel: socket.socket, file: BinaryIO) -> None:
    """The child's side: an empty frame is answered with the schema, a request with the rows."""
    # Few threads and the plain allocator: memory is what is bounded here.
    os.environ.update(ARROW_DEFAULT_MEMORY_POOL="system", OMP_NUM_THREADS="1", ARROW_IO_THREADS="1")
    guard.on_cpu_for(_CPU_SECONDS)
    try:
        import pyarrow
        from pyarrow import parquet

        pyarrow.set_cpu_count(1)
        guard.receive(channel)
        reader = parquet.ParquetFile(
            file, buffer_size=1 << 20, pre_buffer=False, thrift_string_size_limit=64 << 20,
            thrift_container_size_limit=1 << 20,
        )  # fmt: skip
        _tell(channel, _described(reader))
        request = json.loads(guard.receive(channel))
        _send_rows(channel, reader, request)
        _tell(channel, {"done": True})
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError:
        _tell(channel, {"error": "it needs too much memory"})
    except Exception as error:  # pyarrow raises many types on damaged bytes
        _tell(channel, {"error": str(error).partition("\n")[0][:200] or type(error).__name__})


def _described(reader: Any) -> dict[str, Any]:
    schema = reader.schema_arrow
    if len(schema) > MOST_COLUMNS:
        raise ValueError(f"it has {len(schema)} columns; at most {MOST_COLUMNS} are read")
    return {
        "columns": schema.names,
        "kinds": [_kind(field.type) for field in schema],
        "rows": reader.metadata.num_rows,
        "classes": _class_names(schema.metadata or {}),
    }


def _kind(kind: Any) -> str:
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return _TEXT
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _IMAGE
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _IMAGE if _kind(kind.field("bytes").type) == _IMAGE else "struct"
    depth, inner = 0, kind
    while types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
        depth, inner = depth + 1, inner.value_type
    return _PIXELS if 1 <= depth <= 3 and (types.is_integer(inner) or types.is_floating(inner)) else str(kind)[:100]


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """What the Hugging Face library writes into a file's metadata about the names of labels."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            column: [str(name)[:200] for name in feature["names"][:100_000]]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _send_rows(channel: socket.socket, reader: Any, request: dict[str, Any]) -> None:
    names_ = reader.schema_arrow.names
    wanted = [
        place
        for place in (*request["texts"], request["image"], request["label"], request["split"])
        if place is not None
    ]
    columns = sorted({names_[place] for place in wanted})
    batches = reader.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False)
    for batch in batches:
        guard.on_cpu_for(_CPU_SECONDS)
        get = {place: batch.column(batch.schema.get_field_index(names_[place])) for place in wanted}
        for row in range(batch.num_rows):
            head, body = _one(get, row, request)
            _tell(channel, head, body)


def _one(get: dict[int, Any], row: int, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    label, split = (
        _simple(get[request[field]][row].as_py()) if request[field] is not None else None
        for field in ("label", "split")
    )
    if request["image"] is None:
        pieces = [str(piece).strip() for place in request["texts"] if (piece := get[place][row].as_py()) is not None]
        text = " ".join(filter(None, pieces))
        head, body = {"kind": _TEXT}, text[: LONGEST_FIELD + 1].encode(errors="replace")
    else:
        head, body = _image(get[request["image"]][row])
    return (head if "broken" in head else {**head, "label": label, "split": split}), body


def _simple(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value[:1_000] if isinstance(value, str) else value if isinstance(value, int | None) else [str(type(value))]


def _image(scalar: Any) -> tuple[dict[str, Any], bytes]:
    value = getattr(scalar, "value", scalar) if hasattr(scalar.type, "storage_type") else scalar
    if not value.is_valid:
        return {"broken": "has no image"}, b""
    if hasattr(value, "values") and not hasattr(value, "keys"):
        return _pixels(value)
    content = value["bytes"] if hasattr(value, "keys") else value
    if not content.is_valid:
        return {"broken": "has no bytes of an image"}, b""
    body = content.as_buffer() if hasattr(content, "as_buffer") else content.as_py()
    if len(body) > _LARGEST_VALUE:
        return {"broken": f"has an image of more than {_LARGEST_VALUE >> 20} MiB"}, b""
    return {"kind": _IMAGE}, bytes(body)


def _pixels(value: Any) -> tuple[dict[str, Any], bytes]:
    array, shape = value.values, []
    while hasattr(array, "flatten") and hasattr(array.type, "value_type"):
        outer = len(array)
        array = array.flatten()
        shape.append(outer)
        if outer == 0 or len(array) % outer:
            return {"broken": "has an image whose rows differ in length"}, b""
    shape.append(len(array))
    sides = [shape[0], *(inner // outer for outer, inner in itertools.pairwise(shape))]
    if array.null_count or not 0 < len(array) <= _LARGEST_VALUE:
        return {"broken": "has an image with gaps, or none"}, b""
    numbers = array.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind == "f":
        if not ((numbers >= 0) & (numbers <= 1)).all():
            return {"broken": "has an image of fractions that do not lie between 0 and 1"}, b""
        numbers = np.rint(numbers.astype(np.float64) * 255)
    elif not 0 <= numbers.min() <= numbers.max() <= 255:
        return {"broken": "has an image of numbers that do not lie between 0 and 255"}, b""
    return {"kind": _PIXELS, "shape": sides}, numbers.astype(np.uint8).tobytes()


def _tell(channel: socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    encoded = json.dumps(head).encode()
    guard.send(channel, _HEAD.pack(len(encoded)) + encoded + body)
