"""Images and labels as arrays, in idx files or a NumPy archive: headers held against bytes before anything is made.

Arrays are read little by little: what is in memory is a few rows, however many the header promises.
"""

import io
import math
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from distillery.errors import HostileFile, UnreadableData
from engine.intake import names
from engine.intake.gathering import MOST_SAMPLES
from engine.intake.members import Member, exactly

_MOST_HEADER_BYTES = 10_000
_BYTES_AT_ONCE = 4 << 20
_LARGEST_ROW_BYTES = 50 << 20
_LARGEST_TRANSPOSED_BYTES = 64 << 20
_MEND_IDX = "Fetch the file again and compare its size and checksum with the source's."
_MEND_NPZ = "Write it again with numpy.savez_compressed; images as uint8, labels as int64."
_UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class Header:
    """What a file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    transposed: bool = False
    """Whether the first dimension is the fastest."""

    @property
    def size_bytes(self) -> int:
        """Of the values; exact, however large."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """A member that holds one array. `kind` is how: an idx file or a `.npy`.

    Raises:
        UnreadableData: it does not, or not of numbers.
        HostileFile: it would have to be unpickled, or promises more than it can hold.
    """

    def __init__(self, member: Member, *, kind: Literal["idx", "npy"]) -> None:
        self.member, self._kind = member, kind
        with member.open() as stream:
            self.header = self._read_header(stream)

    @property
    def name(self) -> str:
        """The member's."""
        return self.member.name

    def rows(self) -> Iterator[NDArray[Any]]:
        """The array in pieces of whole rows, in order; what follows the last is looked for.

        Raises:
            UnreadableData: there are more or fewer bytes than the header says.
        """
        header = self.header
        count = header.shape[0]
        row_bytes = header.size_bytes // count if count else 0
        at_once = count if header.transposed else max(1, _BYTES_AT_ONCE // max(row_bytes, 1))
        if row_bytes > _LARGEST_ROW_BYTES or (header.transposed and header.size_bytes > _LARGEST_TRANSPOSED_BYTES):
            raise self._wrong(f"one sample has {row_bytes:,} bytes, or it is stored column by column")
        with self.member.open() as stream:
            self._read_header(stream)
            for start in range(0, count, at_once):
                some = min(at_once, count - start)
                content = exactly(stream, some * row_bytes)
                if len(content) != some * row_bytes:
                    raise self._wrong(f"its header says {_by(header.shape)}, and it ends early")
                array = np.frombuffer(content, dtype=header.dtype)
                yield array.reshape((some, *header.shape[1:]), order="F" if header.transposed else "C")
            if stream.read(1):
                raise self._wrong(f"its header says {_by(header.shape)}, and more follows")

    def _read_header(self, stream: BinaryIO) -> Header:
        header = self._idx_header(stream) if self._kind == "idx" else self._npy_header(stream)
        if not header.shape or len(header.shape) > 4:
            raise self._wrong(f"it has {len(header.shape)} dimensions")
        if header.size_bytes > 1 << 50:
            raise HostileFile(
                f"'{names.shown(self.name)}' says it holds {_by(header.shape)} values, more than any file can.",
                hint=self._mend,
            )
        if 0 in header.shape:
            raise self._wrong(f"its shape is {_by(header.shape)}, which is empty")
        return header

    def _idx_header(self, stream: BinaryIO) -> Header:
        magic = exactly(stream, 4)
        if magic[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(magic) < 4:
            raise self._wrong("it is no idx file of unsigned bytes")
        sides = exactly(stream, 4 * magic[3])
        if len(sides) != 4 * magic[3]:
            raise self._wrong("it ends within its header")
        return Header(tuple(np.frombuffer(sides, dtype=">u4").tolist()), np.dtype(np.uint8))

    def _npy_header(self, stream: BinaryIO) -> Header:
        magic = exactly(stream, 8)
        if magic[:6] != b"\x93NUMPY" or magic[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
            raise self._wrong("it is no NumPy array")
        length_bytes = 2 if magic[6] == 1 else 4
        length = int.from_bytes(exactly(stream, length_bytes), "little")
        if length > _MOST_HEADER_BYTES:
            raise HostileFile(f"'{names.shown(self.name)}' has a header of {length:,} bytes.", hint=self._mend)
        text = exactly(stream, length)
        if re.search(rb"'descr':\s*'\|?O|\('[^']*',\s*'\|?O", text):
            raise HostileFile(
                f"The array '{names.shown(self.name)}' holds Python objects, which could run code when they are read.",
                hint=self._mend,
            )
        whole = io.BytesIO(length.to_bytes(length_bytes, "little") + text)
        read = np.lib.format.read_array_header_1_0 if magic[6] == 1 else np.lib.format.read_array_header_2_0
        try:
            shape, transposed, dtype = read(whole, max_header_size=_MOST_HEADER_BYTES)
        except (
            ValueError,
            SyntaxError,
            TypeError,
            KeyError,
            RecursionError,
            MemoryError,
            tokenize.TokenError,
            OverflowError,
        ):
            raise self._wrong("its header is malformed") from None
        if (
            dtype.hasobject
            or dtype.kind not in "uifbSU"
            or dtype.subdtype is not None
            or any(side < 0 for side in shape)
        ):
            raise self._wrong(f"it holds {names.shown(str(dtype))}, not numbers")
        return Header(shape, dtype, transposed=bool(transposed) and len(shape) > 1)

    @property
    def _mend(self) -> str:
        return _MEND_IDX if self._kind == "idx" else _MEND_NPZ

    def _wrong(self, what: str) -> UnreadableData:
        return UnreadableData(f"'{names.shown(self.name)}' cannot be read: {what}.", hint=self._mend)


@dataclass(frozen=True)
class Pair:
    """The images of one split and their labels."""

    images: ArrayFile
    labels: ArrayFile


def label_values(file: ArrayFile) -> Sequence[int]:
    """The labels of one split, integers of any kind.

    Raises:
        UnreadableData: they are none, or do not stand in a row.
    """
    header = file.header
    columns = [side for side in header.shape[1:] if side != 1]
    if columns:
        hint = "Turn one-hot rows into numbers with .argmax(1), and columns into a row with .reshape(-1)."
        raise UnreadableData(f"The labels '{names.shown(file.name)}' have the shape {_by(header.shape)}.", hint=hint)
    if header.dtype.kind not in "iub":
        raise UnreadableData(
            f"The labels '{names.shown(file.name)}' must be integers and are {header.dtype}.",
            hint="Turn names into numbers with numpy.unique(..., return_inverse=True) and give 'classes'.",
        )
    if header.shape[0] > MOST_SAMPLES:
        raise UnreadableData(
            f"'{names.shown(file.name)}' says it has {header.shape[0]:,} labels; at most {MOST_SAMPLES:,} are read.",
            hint="Split the data set.",
        )
    values: list[int] = []
    for rows in file.rows():
        values.extend(rows.reshape(-1).tolist())
    return values


def pictures(file: ArrayFile) -> Iterator[NDArray[np.uint8]]:
    """The images one by one, uint8 [C, H, W], from [N, H, W], [N, H, W, C] or [N, C, H, W].

    Raises:
        UnreadableData: of another shape or type, or floats outside of 0 to 1.
    """
    last = channels_last(file.header.shape, name=file.name)
    for rows in file.rows():
        pixels = as_bytes(rows, name=file.name)
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        elif last:
            pixels = pixels.transpose(0, 3, 1, 2)
        yield from pixels


def channels_last(shape: Sequence[int], *, name: str) -> bool:
    """Whether images of this shape, [N, ...], have their channels at the end; False also of those without.

    Raises:
        UnreadableData: it is no shape of images.
    """
    if len(shape) == 3:
        return False
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        why = "could be [N, C, H, W] or [N, H, W, C]" if first else "is none of [N, H, W], [N, H, W, C], [N, C, H, W]"
        raise UnreadableData(
            f"'{names.shown(name)}': images of shape {_by(shape)}: that {why} with 1 or 3 channels.",
            hint="Store grey images as [N, H, W] and colour images as [N, H, W, 3].",
        )
    return last


def as_bytes(values: NDArray[Any], *, name: str) -> NDArray[np.uint8]:
    """Values from 0 to 255; floats must lie between 0 and 1 and are scaled.

    Raises:
        UnreadableData: they are neither.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise UnreadableData(
            f"'{names.shown(name)}': images must be uint8 or floats from 0 to 1, and are {values.dtype}.",
            hint="If the values run from 0 to 255, store them with .astype('uint8').",
        )
    wide = values.astype(np.float64)
    if not ((wide >= 0) & (wide <= 1)).all():  # false for NaN too
        raise UnreadableData(
            f"'{names.shown(name)}': float images must lie between 0 and 1; found {wide.min():g} to {wide.max():g}.",
            hint="Store the original pixels as uint8, or scale them to 0 to 1 without subtracting a mean.",
        )
    return np.rint(wide * 255).astype(np.uint8)


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
