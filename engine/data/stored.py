"""Data sets that the service keeps, in their packed form (`engine.data.packed`).

Images of the wanted size are mapped: nothing is loaded. Others are squared and resized once, when the data is read.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import UnreadableData
from distillery.spec.dataset import StoredData
from engine.data import memory, splits
from engine.data.dataset import Dataset, Split
from engine.data.images import Images, MappedImages
from engine.data.packed import Packed, open_packed
from engine.data.placing import placed
from engine.data.resize import squared
from engine.data.statistics import channel_statistics

_SPLITS = ("train", "validation", "test")
_BYTES_AT_ONCE = 2**25


def read(spec: StoredData, *, file: Path) -> Dataset:
    """The data set of a packed file, with the splits that it was given when it was added; ids are its sample numbers.

    Its sha256 covers the file's own and what the spec decides: the size, and which images a limit leaves. The file's
    hash holds that of the pixels as the writer found it, so that equal files have equal hashes and other pixels
    another one, and none is read for it. Damage is not its business: the service checks what it fetches.

    Raises:
        UnreadableData: the file is no whole packed image data set, a split of it is empty, a sample of a split has no
            class, or the images differ in size and the spec names none.
        StorageFull: the images must be resized, do not fit into memory, and not on the disk either.
    """
    packed = opened(file)
    rows, notes = _membership(packed, spec=spec)
    size = size_of(packed, wanted=spec.image_size)
    gather = gatherer(packed, size=size, count=sum(map(len, rows.values())))
    train, validation, test = (_split(packed, gather, rows[split]) for split in _SPLITS)
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=spec.id,
        classes=packed.head.classes,
        channels=packed.head.channels,
        image_size=size,
        mean=mean,
        std=std,
        train=train,
        validation=validation,
        test=test,
        sha256=_sha256(packed, size=size, train=rows["train"]),
        notes=(*packed.head.notes, *notes, *_size_notes(packed, size=size)),
    )


def opened(file: Path) -> Packed:
    """A packed file of images.

    Raises:
        UnreadableData: it is not whole, or holds texts.
    """
    packed = open_packed(file)
    if packed.head.task != "image-classification":
        raise UnreadableData(
            f"The data set is one for {packed.head.task}, and only images can be learned from so far.",
            hint="Name a data set of images.",
        )
    return packed


def size_of(packed: Packed, *, wanted: int | None) -> int:
    """The side of the square images in pixels: the wanted one, else the shorter side that all of them have.

    Raises:
        UnreadableData: none is wanted, and they differ.
    """
    if wanted is not None:
        return wanted
    if packed.head.height is None or packed.head.width is None:
        raise UnreadableData(
            "The images of the data set differ in size.",
            hint="Set 'image_size': images of mixed sizes are then resized to it.",
            pointer="/dataset/image_size",
        )
    return min(packed.head.height, packed.head.width)


def gatherer(packed: Packed, *, size: int, count: int) -> Callable[[NDArray[np.int64]], Images]:
    """What gives the images of ascending rows, square and of `size` pixels; `count` is how many will be asked for."""
    if packed.head.height == packed.head.width == size:
        return lambda rows: MappedImages(packed.images(), torch.from_numpy(rows), mapping=packed.mapping)
    channels = packed.head.channels
    in_memory = memory.holds_comfortably(count * channels * size * size)
    return lambda rows: placed(
        _squares(packed, rows, size=size), count=len(rows), channels=channels, size=size, in_memory=in_memory
    )


def _squares(packed: Packed, rows: NDArray[np.int64], *, size: int) -> Iterator[Tensor]:
    """The images of `rows` cut and resized, some at a time: uint8 [n, C, size, size]."""
    if not len(rows):
        return
    largest = int(packed.sizes[rows].astype(np.int64).prod(axis=1).max()) * packed.head.channels
    portion = max(1, _BYTES_AT_ONCE // largest)
    for start in range(0, len(rows), portion):
        some = rows[start : start + portion]
        if packed.head.height is not None:
            yield squared(torch.from_numpy(np.take(packed.images(), some, axis=0)), size=size)
        else:
            each = (torch.from_numpy(packed.image(row).copy()).unsqueeze(0) for row in some.tolist())
            yield torch.cat([squared(image, size=size) for image in each])


def _membership(packed: Packed, *, spec: StoredData) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """The rows of each split, ascending."""
    rows = {split: packed.rows(split) for split in _SPLITS}
    for split, found in rows.items():
        if not len(found):
            raise UnreadableData(
                f"The data set has no {split} images.", hint="Add it again, with shares for its splits."
            )
        labels = packed.labels[found]
        if labels.min() < 0 or labels.max() >= len(packed.head.classes):
            raise UnreadableData(
                f"An image of the {split} split is of none of the {len(packed.head.classes)} classes.",
                hint="Add the data set again.",
            )
    train = rows["train"]
    if spec.limit is None or spec.limit >= len(train):
        return rows, ()
    kept = splits.limited(torch.from_numpy(packed.labels[train]), limit=spec.limit, seed=spec.split_seed)
    rows["train"] = train[kept.numpy()]
    return rows, (f"{spec.limit:,} of {len(train):,} training images are used ('limit'), stratified by class.",)


def _split(packed: Packed, gather: Callable[[NDArray[np.int64]], Images], rows: NDArray[np.int64]) -> Split:
    return Split(images=gather(rows), labels=torch.from_numpy(packed.labels[rows]), ids=torch.from_numpy(rows))


def _size_notes(packed: Packed, *, size: int) -> tuple[str, ...]:
    height, width = packed.head.height, packed.head.width
    if height is None or width is None:
        return (f"Images of mixed sizes were cut to their centred square and resized to {size}x{size} (bilinear).",)
    return cut_notes(height, width, size=size)


def cut_notes(height: int, width: int, *, size: int) -> tuple[str, ...]:
    """What became of images of one size."""
    side, notes = min(height, width), []
    if height != width:
        notes.append(f"Images of {height}x{width} pixels were cut to the centred {side}x{side}.")
    if side != size:
        notes.append(f"Images were resized from {side}x{side} to {size}x{size} pixels (bilinear, antialiased).")
    return tuple(notes)


def _sha256(packed: Packed, *, size: int, train: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(json.dumps({"packed": packed.sha256(), "size": size}).encode())
    digest.update(train.astype("<i8").data)
    return digest.hexdigest()
