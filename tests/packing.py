"""Packed files out of images in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.data.packed import SPLITS, PackedWriter


def pack(
    path: Path,
    images: Sequence[NDArray[np.uint8]],
    *,
    labels: Sequence[int],
    splits: Sequence[str],
    classes: Sequence[str] = ("a", "b"),
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """A packed file of `images`, uint8 [C, H, W] each, with the labels and names of splits as they are given."""
    with PackedWriter(path, task="image-classification", channels=images[0].shape[0]) as writer:
        for number, image in enumerate(images):
            writer.add_image(image, name=names[number] if names else f"{number:05}.png")
        numbers = np.array([SPLITS.index(split) for split in splits], dtype=np.uint8)
        writer.finish(classes=classes, labels=np.array(labels, dtype=np.int64), split=numbers, notes=notes)
    return path


def pack_dataset(path: Path, dataset: Dataset, *, unlabelled: NDArray[np.uint8] | None = None) -> Path:
    """The three splits of a data set, shuffled among each other; `unlabelled` images, uint8 [N, C, H, W], come last."""
    images, labels, splits = [], [], []
    for split in SPLITS[:3]:
        part = getattr(dataset, split)
        images += list(part.images[:].numpy())
        labels += part.labels.tolist()
        splits += [split] * len(part)
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    more = [] if unlabelled is None else list(unlabelled)
    return pack(
        path,
        [images[place] for place in order] + more,
        labels=[labels[place] for place in order] + [-1] * len(more),
        splits=[splits[place] for place in order] + ["unlabelled"] * len(more),
        classes=dataset.classes,
    )
