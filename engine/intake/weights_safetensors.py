"""Is this a whole safetensors file? Told from its header, before any of its tensors is read, and without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from distillery.errors import HostileFile, UnusableWeights

MOST_HEADER_BYTES = 10 << 20
MOST_TENSORS = 100_000
MOST_AXES = 16
MOST_BRACKETS = 1_500_000
"""In a header: two lists and an object of each tensor, and as many again in the texts of the metadata."""
MOST_METADATA = 1_000
MOST_METADATA_CHARACTERS = 1 << 20
MOST_NAME_CHARACTERS = 500
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number of each type that is read."""
_FIELDS = {"dtype", "shape", "data_offsets"}
_LARGEST = 2**63
_WHERE = "/uploads"


@dataclass(frozen=True)
class TensorHead:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a file holds."""

    tensors: Mapping[str, TensorHead]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """The header of a file whose every byte it accounts for.

    Raises:
        HostileFile: the header lies: about its own length, about shapes, or about where tensors lie.
        UnusableWeights: it is missing or no safetensors file, or its numbers are of a type that is not read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = _header_length(file, size=size)
            text = file.read(length)
    except OSError as error:
        raise _unusable(f"it cannot be read ({error.strerror})") from None
    if len(text) != length:
        raise _hostile("it ends within its header")
    told = _parsed(text)
    metadata = _metadata(told.pop("__metadata__", {}))
    if len(told) > MOST_TENSORS:
        raise _hostile(f"its header names {len(told):,} tensors; {MOST_TENSORS:,} are read at most")
    if not told:
        raise _unusable("it holds no tensors")
    _require_covered([_extent(name, entry) for name, entry in told.items()], data_bytes=size - 8 - length)
    tensors = {name: TensorHead(entry["dtype"], tuple(entry["shape"])) for name, entry in told.items()}
    return Header(tensors, metadata)


def _header_length(file: BinaryIO, *, size: int) -> int:
    first = file.read(8)
    if len(first) < 8:
        raise _unusable("it is shorter than the length of a header")
    length = int.from_bytes(first, "little")
    if length > MOST_HEADER_BYTES or length > size - 8:
        raise _hostile(
            f"it announces a header of {length:,} bytes, of a file of {size:,}; {MOST_HEADER_BYTES:,} are read at most"
        )
    if length < 2:
        raise _unusable("its header is empty")
    return length


def _parsed(text: bytes) -> dict[str, Any]:
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:  # each would be an object of its own in memory
        raise _hostile("its header holds more lists than its tensors can have")
    try:
        told = json.loads(text.decode(), object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_constant)
    except (HostileFile, UnusableWeights):
        raise
    except RecursionError:
        raise _hostile("its header is nested too deeply") from None
    except MemoryError:
        raise _hostile("its header unfolds to more than the memory that a file of its size may take") from None
    except ValueError as error:
        raise _unusable(f"its header is no JSON ({str(error)[:100]})") from None
    if not isinstance(told, dict):
        raise _unusable("its header is no JSON object")
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    told = dict(pairs)
    if len(told) != len(pairs):
        raise _hostile("its header gives one name twice")
    return told


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= _LARGEST:
        raise _hostile("its header holds a number beyond 2^63")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise _hostile(f"its header holds {name}")


def _metadata(told: Any) -> dict[str, str]:
    if not isinstance(told, dict) or not all(isinstance(each, str) for each in told.values()):
        raise _hostile("its metadata are no texts")
    length = sum(len(key) + len(value) for key, value in told.items())
    if len(told) > MOST_METADATA or length > MOST_METADATA_CHARACTERS:
        raise _hostile(
            f"its metadata have {len(told):,} entries and {length:,} characters; {MOST_METADATA:,} and "
            f"{MOST_METADATA_CHARACTERS:,} are read at most"
        )
    return told


def _extent(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor lies, once its shape and type agree with that."""
    shown = name[:80]
    if len(name) > MOST_NAME_CHARACTERS or any(ord(each) < 32 or ord(each) == 127 for each in name):
        raise _hostile(f"a tensor is called '{shown!a}'")
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise _hostile(f"the entry of '{shown}' is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _unusable(f"'{shown}' has numbers of the type {str(dtype)[:20]!a}; read are {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise _hostile(f"'{shown}' has an impossible shape")
    if not _sizes(offsets) or len(offsets) != 2:
        raise _hostile(f"'{shown}' lies at an impossible place")
    begin, end = offsets
    if begin > end or end - begin != math.prod(shape) * DTYPES[dtype]:
        raise _hostile(f"the shape of '{shown}' promises other bytes than its place holds")
    return begin, end


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(each) is int and each >= 0 for each in values)


def _require_covered(extents: list[tuple[int, int]], *, data_bytes: int) -> None:
    """The tensors fill the file, one behind the other: nothing lies under two of them, and nothing under none."""
    at = 0
    for begin, end in sorted(extents):
        if begin != at:
            raise _hostile("its tensors overlap" if begin < at else "bytes lie between its tensors that belong to none")
        at = end
    if at != data_bytes:
        raise _hostile(f"its tensors take {at:,} bytes, and the file holds {data_bytes:,}")


def _hostile(why: str) -> HostileFile:
    return HostileFile(
        f"The safetensors file is not read: {why}.",
        hint="Write it anew with safetensors.torch.save_file, or with: distillery models convert FILE",
        pointer=_WHERE,
    )


def _unusable(why: str) -> UnusableWeights:
    return UnusableWeights(
        f"The file cannot be used as safetensors: {why}.",
        hint="Write it with safetensors.torch.save_file, or with: distillery models convert FILE",
        pointer=_WHERE,
    )
