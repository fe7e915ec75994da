"""The packed form of a data set: one file that is written once, named by its hash, and mapped into memory to be read.

A magic word, the samples' bytes one after the other, the arrays, a JSON head, and at the end where the head lies.
Images are uint8 [C, H, W]; texts are UTF-8. It needs NumPy alone, so that a guarded process can write it. Equal
contents give equal bytes.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData

MAGIC = b"DSTLPCK1"
SPLITS = ("train", "validation", "test", "unlabelled")
"""In the order of their numbers in the array `split`."""
UNLABELLED = -1
"""The label of a sample without one."""
_TAIL = struct.Struct("<QQ8s")
_ALIGNED = 64
_MOST_HEAD_BYTES = 64 << 20
Task = Literal["image-classification", "text-classification"]


@dataclass(frozen=True)
class Head:
    """What a packed file says of itself."""

    task: Task
    classes: tuple[str, ...]
    count: int
    channels: int
    """0 of texts."""
    height: int | None
    """Of every image, in pixels; None where they differ, and of texts."""
    width: int | None
    notes: tuple[str, ...]
    samples_sha256: str
    """Of the magic word and every sample's bytes, found while they were written: two files hold the same samples, in
    the same order, just when these are equal, and nobody has to read them to know."""


class PackedWriter:
    """Writes a packed file, sample by sample. Use it as a context manager and `finish` it inside; else nothing is left.

    `add_image` and `add_text` take the samples in the order in which they will be numbered, from 0.
    """

    def __init__(self, path: Path, *, task: Task, channels: int = 0) -> None:
        self._path, self._task, self._channels = path, task, channels
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._at = 0
        self._offsets, self._sizes, self._names = [0], list[tuple[int, int]](), list[bytes]()
        self._finished = False
        self._write(MAGIC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if not self._finished:
            self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._names)

    def add_image(self, pixels: NDArray[np.uint8], *, name: str) -> None:
        """Append an image, uint8 [C, H, W]; `name` is that of its member, to find it again by."""
        channels, height, width = pixels.shape
        assert channels == self._channels, "Every image has the channels of its file."  # noqa: S101 - ours to keep
        self._add(np.ascontiguousarray(pixels).tobytes(), (height, width), name)

    def add_text(self, text: str, *, name: str) -> None:
        """Append a text."""
        self._add(text.encode(), (0, 0), name)

    def finish(
        self,
        *,
        classes: Sequence[str],
        labels: NDArray[np.int64],
        split: NDArray[np.uint8],
        notes: Sequence[str] = (),
    ) -> tuple[str, int]:
        """Write what belongs to the samples: `labels` int64 [N], -1 for none, and the number of its split for each.

        Gives the file's sha256 and size in bytes; it is on the disk when this returns.
        """
        count, samples_sha256 = len(self), self._digest.hexdigest()
        if not len(labels) == len(split) == count:
            raise AssertionError(f"{len(labels)} labels and {len(split)} splits were given for {count} samples.")
        names = b"".join(self._names)
        arrays: dict[str, NDArray[Any]] = {
            "offsets": np.asarray(self._offsets, dtype="<i8"),
            "sizes": np.asarray(self._sizes, dtype="<i4").reshape(count, 2),
            "labels": np.asarray(labels, dtype="<i8"),
            "split": np.asarray(split, dtype="u1"),
            "name_offsets": np.cumsum([0, *map(len, self._names)], dtype="<i8"),
            "names": np.frombuffer(names, dtype="u1"),
        }
        uniform = set(self._sizes) if self._channels else set()
        height, width = uniform.pop() if len(uniform) == 1 else (None, None)
        head = {
            "task": self._task, "classes": list(classes), "count": count, "channels": self._channels,
            "height": height, "width": width, "notes": list(notes), "samples_sha256": samples_sha256,
            "arrays": {name: self._array(array) for name, array in arrays.items()},
        }  # fmt: skip
        encoded, at = json.dumps(head, ensure_ascii=False, sort_keys=True).encode(), self._at
        self._write(encoded)
        self._write(_TAIL.pack(at, len(encoded), MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._finished = True
        return self._digest.hexdigest(), self._at

    def _add(self, content: bytes, size: tuple[int, int], name: str) -> None:
        self._write(content)
        self._offsets.append(self._at - len(MAGIC))
        self._sizes.append(size)
        self._names.append(name.encode(errors="replace"))

    def _array(self, array: NDArray[Any]) -> dict[str, Any]:
        self._write(bytes(-self._at % _ALIGNED))
        at = self._at
        self._write(array.tobytes())
        return {"at": at, "dtype": array.dtype.str, "shape": list(array.shape)}

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._at += len(content)


@dataclass(frozen=True)
class Packed:
    """A packed file, mapped. Its arrays are views of the file: they cost no memory of the process's own."""

    path: Path
    head: Head
    labels: NDArray[np.int64]
    """int64 [N], -1 for none."""
    split: NDArray[np.uint8]
    """uint8 [N]: the place in `SPLITS`."""
    sizes: NDArray[np.int32]
    """int32 [N, 2]: height and width in pixels."""
    mapping: mmap.mmap = field(repr=False)
    """The whole file."""
    _offsets: NDArray[np.int64] = field(repr=False)
    _name_offsets: NDArray[np.int64] = field(repr=False)
    _names: NDArray[np.uint8] = field(repr=False)
    _samples: NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return self.head.count

    def rows(self, split: str) -> NDArray[np.int64]:
        """The numbers of the samples of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split)).astype(np.int64)

    def image(self, row: int) -> NDArray[np.uint8]:
        """uint8 [C, H, W]."""
        height, width = self.sizes[row].tolist()
        return self._sample(row).reshape(self.head.channels, height, width)

    def images(self) -> NDArray[np.uint8]:
        """All of them as one array, uint8 [N, C, H, W]; only where all have one size."""
        head = self.head
        if head.height is None or head.width is None:
            raise AssertionError(f"The images of {self.path.name} differ in size.")
        return self._samples[: self._offsets[-1]].reshape(head.count, head.channels, head.height, head.width)

    def sha256(self) -> str:
        """Hash of all that the file says, without its notes. The samples are not read for it: the head has their hash,
        so that a file whose samples were damaged later has the hash that it had before."""
        facts = {name: value for name, value in asdict(self.head).items() if name != "notes"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for array in (self.labels, self.split, self.sizes, self._offsets, self._name_offsets, self._names):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def text(self, row: int) -> str:
        """The text of a sample."""
        return self._sample(row).tobytes().decode()

    def name(self, row: int) -> str:
        """The name of the member that the sample came from."""
        return self._names[self._name_offsets[row] : self._name_offsets[row + 1]].tobytes().decode()

    def _sample(self, row: int) -> NDArray[np.uint8]:
        return self._samples[self._offsets[row] : self._offsets[row + 1]]


def open_packed(path: Path) -> Packed:
    """Map a packed file.

    Raises:
        UnreadableData: it is missing, cut short, or no such file.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        whole = np.frombuffer(mapping, dtype=np.uint8)
        at, length, magic = _TAIL.unpack(whole[-_TAIL.size :].tobytes())
        if magic != MAGIC or length > _MOST_HEAD_BYTES or at + length + _TAIL.size != len(whole):
            raise ValueError("its end is not that of a packed data set")
        head = json.loads(whole[at : at + length].tobytes())
        arrays = {name: _mapped(whole, **place) for name, place in head.pop("arrays").items()}
        head |= {"classes": tuple(head["classes"]), "notes": tuple(head["notes"])}
        return Packed(
            path=path,
            head=Head(**head),
            labels=arrays["labels"],
            split=arrays["split"],
            sizes=arrays["sizes"],
            mapping=mapping,
            _offsets=arrays["offsets"],
            _name_offsets=arrays["name_offsets"],
            _names=arrays["names"],
            _samples=whole[len(MAGIC) :],
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UnreadableData(
            f"'{path.name}' is no whole packed data set: {error}.", hint="Add the data set again.", pointer="/dataset"
        ) from None


def _mapped(whole: NDArray[np.uint8], *, at: int, dtype: str, shape: list[int]) -> NDArray[Any]:
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape))
    return whole[at : at + size].view(kind).reshape(shape)
