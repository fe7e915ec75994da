"""From a data set's spec to a data set in memory: find the reader, draw missing splits, resize, measure, hash."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.errors import UnreadableData
from distillery.spec.dataset import (
    DatasetSpec,
    DigitsData,
    IdxData,
    ImageData,
    ImageFolderData,
    NamedData,
    NpzData,
    StoredData,
    TorchvisionData,
)
from engine.data import digits, idx, image_folder, memory, named, npz, paths, splits, torchvision_files
from engine.data import stored as stored_images
from engine.data import unlabelled as unlabelled_images
from engine.data.dataset import Dataset, Split
from engine.data.resize import squared
from engine.data.source import Part, Source
from engine.data.statistics import channel_statistics
from engine.data.stored import cut_notes

READERS: tuple[tuple[type[ImageData], Callable[[Any], Source]], ...] = (
    (DigitsData, digits.read),
    (IdxData, idx.read),
    (ImageFolderData, image_folder.read),
    (NpzData, npz.read),
    (TorchvisionData, torchvision_files.read),
)
"""Each kind of data and the function that reads it. `NamedData` is turned into one of these first."""
_PATH_FIELDS = ("path", "root")
_POINTERS = {
    "digits": "/dataset/kind",
    "named": "/dataset/name",
    "torchvision": "/dataset/root",
    "stored": "/dataset/id",
}


def load(
    spec: DatasetSpec, *, data_root: Path | None = None, stored: Path | None = None, unlabelled: Path | None = None
) -> Dataset:
    """Read the data that `spec` asks for.

    `stored` and `unlabelled` are the packed files that its ids stand for. Named data is looked for below `data_root`,
    else below `$DISTILLERY_DATA`, and only there. Any other path must lie below one of `$DISTILLERY_DATA_ROOTS` where
    that is set.

    Raises:
        UnreadableData: the data is missing, damaged, of a foreign format, too large for memory, or outside of
            those roots; the detail names the file and the pointer the field.
        UnknownName: no data set has that name.
        MissingDependency: a package that the format needs is not installed.
        StorageFull: stored or unlabelled images must be resized, and fit neither into memory nor on the disk.
    """
    try:
        dataset = _labelled(spec, data_root=data_root, file=stored)
    except UnreadableData as error:
        error.pointer = error.pointer or _POINTERS.get(spec.kind, "/dataset/path")
        raise
    if spec.unlabelled is None:
        return dataset
    same_file = isinstance(spec, StoredData) and spec.id == spec.unlabelled.id
    packed = unlabelled or (stored if same_file else None)
    return unlabelled_images.attached(dataset, spec.unlabelled, packed=packed, same_file=same_file)


def _labelled(spec: DatasetSpec, *, data_root: Path | None, file: Path | None) -> Dataset:
    if isinstance(spec, StoredData):
        if file is None:
            raise UnreadableData(
                f"{spec.id} is a data set that a service keeps, and this run has none.",
                hint="Give 'kind' and 'path' instead of an id, or give its packed file with --dataset.",
            )
        return stored_images.read(spec, file=file)
    if isinstance(spec, NamedData):
        found = named.recognise(spec, data_root=data_root)
        return _assembled(_read(found), spec=spec, name=spec.name)
    for path in (getattr(spec, field, None) for field in _PATH_FIELDS):
        if path is not None:
            paths.require_allowed(path)
    source = _read(spec)
    return _assembled(source, spec=spec, name=source.name)


def _read(spec: DatasetSpec) -> Source:
    return next(reader for kind, reader in READERS if type(spec) is kind)(spec)


def _assembled(source: Source, *, spec: ImageData, name: str) -> Dataset:
    membership, notes = _membership(source, spec=spec)
    size = spec.image_size or min(source.height, source.width)
    total = sum(len(rows) for _, rows, _ in membership.values())
    memory.require(total * source.channels * size * size, what=f"The data set '{name}' at {size}x{size} pixels")
    train, validation, test = (
        _split(part, rows=rows, first_id=first_id, size=size) for part, rows, first_id in membership.values()
    )
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=name,
        classes=source.classes,
        channels=source.channels,
        image_size=size,
        mean=mean,
        std=std,
        train=train,
        validation=validation,
        test=test,
        sha256=_sha256(source.classes, (train, validation, test)),
        notes=(*source.notes, *notes, *cut_notes(source.height, source.width, size=size)),
    )


def _membership(source: Source, *, spec: ImageData) -> tuple[dict[str, tuple[Part, Tensor, int]], tuple[str, ...]]:
    """For train, validation and test: the part that the split comes from, its rows there, and the part's first id."""
    parts = [part for part in (source.train, source.validation, source.test) if part is not None]
    first_ids = {id(part): sum(len(before) for before in parts[:index]) for index, part in enumerate(parts)}
    held: dict[str, tuple[Part, Tensor]] = {}
    notes: list[str] = []
    rows = torch.arange(len(source.train))
    for split, own, share in (
        ("test", source.test, spec.test),
        ("validation", source.validation, spec.validation),
    ):
        if own is not None:
            held[split] = (own, torch.arange(len(own)))
            continue
        stay, back = splits.held_out(source.train.labels[rows], share=share, seed=spec.split_seed, purpose=split)
        _not_empty(back, split=split, rows=rows)
        held[split] = (source.train, rows[back])
        notes.append(_split_note(split, held=len(back), of=len(rows), seed=spec.split_seed))
        rows = rows[stay]
    if spec.limit is not None and spec.limit < len(rows):
        notes.append(f"{spec.limit:,} of {len(rows):,} training images are used ('limit'), stratified by class.")
        rows = rows[splits.limited(source.train.labels[rows], limit=spec.limit, seed=spec.split_seed)]
    chosen = {"train": (source.train, rows), "validation": held["validation"], "test": held["test"]}
    return {split: (part, kept, first_ids[id(part)]) for split, (part, kept) in chosen.items()}, tuple(notes)


def _not_empty(held: Tensor, *, split: str, rows: Tensor) -> None:
    if len(held) == 0:
        raise UnreadableData(
            f"No images are left for the {split} split: no class has two of the {len(rows)} images it is drawn from.",
            hint=f"Add images, or bring a {split} split of your own.",
        )


def _split_note(split: str, *, held: int, of: int, seed: int) -> str:
    return (
        f"The data brings no {split} split: {held:,} of {of:,} images were held back for it, stratified by class, "
        f"drawn with split_seed {seed}."
    )


def _split(part: Part, *, rows: Tensor, first_id: int, size: int) -> Split:
    return Split(images=squared(part.pixels(rows), size=size), labels=part.labels[rows], ids=rows + first_id)


def _sha256(classes: tuple[str, ...], parts: tuple[Split, ...]) -> str:
    """Hash of class names, shapes, pixels, labels and ids, split by split, in little-endian order."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for part in parts:
        digest.update(json.dumps(list(part.images.shape)).encode())
        digest.update(part.images[:].contiguous().numpy().data)
        for numbers in (part.labels, part.ids):
            digest.update(numbers.numpy().astype("<i8").data)
    return digest.hexdigest()
