"""The idx format of the MNIST family (LeCun's MNIST page): four files, plain or gzipped.

A file is: two zero bytes, a type (8 is unsigned byte), the number of dimensions, one big-endian uint32 per dimension,
then the values, last dimension fastest. Its length is therefore known from its header and is checked to the byte.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from distillery.errors import UnreadableData
from distillery.spec.dataset import IdxData
from engine.data import memory, paths
from engine.data.source import Part, Source, class_names, in_memory

PREFIXES = {"train": "train", "test": "t10k"}
KNOWN_CLASSES = {
    "fashionmnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip
"""Class names that no idx file holds, by the folder's name without case, hyphens and underscores."""
_UNSIGNED_BYTE = 8
_MEND = "Fetch the file again and compare its size and checksum with the source's."


def read(spec: IdxData) -> Source:
    """Read the folder `spec.path`.

    Raises:
        UnreadableData: a file is missing, truncated, too long, of another format, or does not fit its partner.
    """
    return read_folder(paths.existing_folder(spec.path))


def read_folder(folder: Path, *, classes: Sequence[str] | None = None) -> Source:
    """Read the four files of `folder`; `classes` names the labels, else the folder's name may.

    Raises:
        UnreadableData: as `read`.
    """
    train, test = (_pair(folder, prefix) for prefix in PREFIXES.values())
    sizes = [tuple(images.shape[1:]) for images, _ in (train, test)]
    if sizes[0] != sizes[1]:
        raise UnreadableData(
            f"'{folder}': the training images are {_by(sizes[0])} pixels and the test images {_by(sizes[1])}.",
            hint="Both must be of one size; the files may belong to different data sets.",
        )
    guessed = KNOWN_CLASSES.get(folder.name.lower().replace("-", "").replace("_", ""), ())
    if classes is None and len(guessed) == len(torch.unique(train[1])):  # a part of the classes keeps its numbers
        classes = guessed
    names = class_names([train[1], test[1]], names=classes, where=f"'{folder}'")
    height, width = sizes[0]
    parts = [_part(*pair) for pair in (train, test)]
    return Source(folder.name, names, 1, height, width, train=parts[0], test=parts[1])


def has_images(folder: Path) -> bool:
    """Whether `folder` holds training images under one of the names of the family."""
    return _find(folder, stem="train-images", dimensions=3) is not None


def _part(images: Tensor, labels: Tensor) -> Part:
    return in_memory(images.unsqueeze(1), labels.to(torch.int64))


def _pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, H, W] and labels uint8 [N] of one split."""
    image_file = _existing(folder, stem=f"{prefix}-images", dimensions=3)
    label_file = _existing(folder, stem=f"{prefix}-labels", dimensions=1)
    images = values(image_file, dimensions=3)
    labels = values(label_file, dimensions=1)
    if len(images) != len(labels):
        raise UnreadableData(
            f"'{image_file.name}' holds {len(images)} images and '{label_file.name}' {len(labels)} labels.",
            hint="The two files belong to different data sets, or one of them is cut; fetch both again.",
        )
    return images, labels


def _find(folder: Path, *, stem: str, dimensions: int) -> Path | None:
    names = [f"{stem}{dot}idx{dimensions}-ubyte{packed}" for packed in ("", ".gz") for dot in ("-", ".")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _existing(folder: Path, *, stem: str, dimensions: int) -> Path:
    file = _find(folder, stem=stem, dimensions=dimensions)
    if file is None:
        raise UnreadableData(
            f"'{folder}': expected the file '{stem}-idx{dimensions}-ubyte' or the same with '.gz'; "
            f"found {paths.listing(folder)}.",
            hint="An idx data set is four files: train-images, train-labels, t10k-images and t10k-labels.",
        )
    return file


def values(file: Path, *, dimensions: int) -> Tensor:
    """Every value of an idx file of unsigned bytes with `dimensions` dimensions, uint8.

    Raises:
        UnreadableData: the file is not that, or its length differs from what its header says.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            return _values(stream, file=file, dimensions=dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableData(f"'{file}' is not a whole gzip file: {error}.", hint=_MEND) from None
    except OSError as error:
        raise UnreadableData(f"'{file}' cannot be read: {error.strerror}.") from None


def _values(stream: BinaryIO | gzip.GzipFile, *, file: Path, dimensions: int) -> Tensor:
    shape = _header(stream, file=file, dimensions=dimensions)
    count = math.prod(shape)
    memory.require(count, what=f"'{file}'")
    # One byte more is asked for than there should be: it shows surplus, and makes gzip check its checksum.
    content = bytearray(stream.read(count + 1))
    if len(content) != count:
        found = f"only {len(content):,}" if len(content) < count else "more"
        raise UnreadableData(
            f"'{file}': its header says {_by(shape)}, so {count:,} bytes of values; found {found}.", hint=_MEND
        )
    return torch.frombuffer(content, dtype=torch.uint8).view(shape)


def _header(stream: BinaryIO | gzip.GzipFile, *, file: Path, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if magic != expected:
        raise UnreadableData(
            f"'{file}' is not an idx file of unsigned bytes with {dimensions} dimension{'s' * (dimensions > 1)}: "
            f"expected it to begin with {expected.hex(' ')}, found {magic.hex(' ') or 'an empty file'}.",
            hint="Give the file its original name and content; a file ending in .gz must be gzipped, any other not.",
        )
    raw = stream.read(4 * dimensions)
    if len(raw) < 4 * dimensions:
        raise UnreadableData(f"'{file}' ends within its header, after {4 + len(raw)} bytes.", hint=_MEND)
    shape = struct.unpack(f">{dimensions}I", raw)
    if 0 in shape:
        raise UnreadableData(f"'{file}' is empty: its header says {_by(shape)}.", hint=_MEND)
    return shape


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
