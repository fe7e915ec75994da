"""Images that nobody labelled, for a student whose teacher labels them.

An image that is the very same as one of the validation or test split is left out: whoever hands over a heap of images
often hands over those as well, and a student that was trained on them would look better than it is.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.errors import UnreadableData
from distillery.spec.dataset import UnlabelledData
from engine.data import memory, paths, stored
from engine.data.dataset import Dataset, Split
from engine.data.image_folder import SUFFIXES, ImageFiles
from engine.data.images import Images, chosen
from engine.data.packed import UNLABELLED
from engine.data.placing import placed

_AT_ONCE = 1024
_DIGEST_BYTES = 16


def attached(dataset: Dataset, spec: UnlabelledData, *, packed: Path | None, same_file: bool) -> Dataset:
    """The data set with the images that `spec` names, square and of its size, labels -1, and ids that no other has.

    `packed` is the file that the id stands for. In the `same_file` as the labelled images the ids are the sample
    numbers there; elsewhere they count on from the largest. The sha256 covers these images too.

    Raises:
        UnreadableData: there are none, one cannot be read, they have other channels, or the folder lies outside of
            `$DISTILLERY_DATA_ROOTS`.
        StorageFull: they fit neither into memory nor on the disk.
    """
    pointer = f"/dataset/unlabelled/{'id' if spec.path is None else 'path'}"
    ids: Tensor | None = None
    try:
        if spec.path is not None:
            images = _of_folder(spec.path, dataset=dataset)
        else:
            images, ids = _of_packed(packed, dataset=dataset, same_file=same_file)
    except UnreadableData as error:
        error.pointer = pointer
        raise
    held_back = {digest for split in (dataset.validation, dataset.test) for digest in _digests(split.images)}
    seen = list(_digests(images))
    kept = torch.tensor([digest not in held_back for digest in seen])
    rows = torch.nonzero(kept).flatten()
    if not len(rows):
        raise UnreadableData(
            f"Each of the {len(images):,} unlabelled images is one of the validation or the test split.",
            hint="Name other images: those are held back, and nobody may learn from them.",
            pointer=pointer,
        )
    first = 1 + max(int(split.ids.max()) for split in (dataset.train, dataset.validation, dataset.test))
    ids = torch.arange(first, first + len(images)) if ids is None else ids
    labels = torch.full((len(rows),), UNLABELLED, dtype=torch.int64)
    return replace(
        dataset,
        unlabelled=Split(images if len(rows) == len(images) else chosen(images, rows), labels, ids[rows]),
        sha256=hashlib.sha256(dataset.sha256.encode() + b"".join(seen)).hexdigest(),
        notes=(*dataset.notes, *_notes(used=len(rows), left_out=len(images) - len(rows))),
    )


def _notes(*, used: int, left_out: int) -> tuple[str, ...]:
    """In the notes of the data set."""
    notes = [f"{used:,} unlabelled images are for the student alone."]
    if left_out:
        notes.append(f"{left_out:,} unlabelled images are also in the validation or test split and were left out.")
    return tuple(notes)


def _digests(images: Images) -> Iterator[bytes]:
    """Of the pixels of each image."""
    for start in range(0, len(images), _AT_ONCE):
        for image in images[start : start + _AT_ONCE].numpy():
            yield hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest()


def _of_packed(file: Path | None, *, dataset: Dataset, same_file: bool) -> tuple[Images, Tensor | None]:
    """The unlabelled split of a packed file, or all of its images where each has a label."""
    if file is None:
        raise UnreadableData(
            "'unlabelled.id' stands for a data set that a service keeps, and this run has none.",
            hint="Name a folder of images as 'unlabelled.path', or give the packed file with --unlabelled.",
        )
    packed = stored.opened(file)
    rows = packed.rows("unlabelled")
    if not len(rows) and same_file:
        raise UnreadableData(
            "The data set has no unlabelled images besides those that it is split into.",
            hint="Leave 'unlabelled' out, or name another data set.",
        )
    if not len(rows):
        rows = np.arange(len(packed), dtype=np.int64)
    if packed.head.channels != dataset.channels:
        raise UnreadableData(
            f"The unlabelled images have {packed.head.channels} channels, the labelled ones {dataset.channels}.",
            hint="Add them as a data set with the channels of the labelled one.",
        )
    images = stored.gatherer(packed, size=dataset.image_size, count=len(rows))(rows)
    return images, torch.from_numpy(rows) if same_file else None


def _of_folder(path: str, *, dataset: Dataset) -> Images:
    paths.require_allowed(path)
    files = tuple(_below(paths.existing_folder(path)))
    if not files:
        raise UnreadableData(f"No image lies below '{path}'.", hint=f"Images end in {', '.join(SUFFIXES)}.")
    read = ImageFiles(files, dataset.channels, dataset.image_size, mixed=True)
    rows = torch.arange(len(files))
    return placed(
        (read(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)),
        count=len(files),
        channels=dataset.channels,
        size=dataset.image_size,
        in_memory=memory.holds_comfortably(len(files) * dataset.channels * dataset.image_size**2),
    )


def _below(folder: Path) -> Iterator[Path]:
    """The images below a folder, to its depth, in the order of their names; links to folders are not followed."""
    for entry in paths.entries(folder):
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _below(entry)
        elif entry.suffix.lower() in SUFFIXES:
            paths.require_allowed(entry)  # it may be a link
            yield paths.existing_file(entry)
