"""The real images of a contest: a few of them in an archive that every contender reads, and as PIL pictures.

Needs numpy, torch and torchvision only, because peers read it in environments of their own; preparing an archive needs
the rest of ours.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the published CIFAR-10 weights were trained with; it changes nothing in the cost."""
GREY_MEAN, GREY_STD = (0.5,), (0.25,)


@dataclass(frozen=True)
class Arrays:
    """Pixels uint8 [N, H, W, C] and labels int64 [N] of both splits."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    classes: int

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.x_train.shape[1])

    @property
    def channels(self) -> int:
        return int(self.x_train.shape[3])

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN if self.channels == len(MEAN) else GREY_MEAN

    @property
    def std(self) -> tuple[float, ...]:
        return STD if self.channels == len(STD) else GREY_STD

    def first(self, count: int) -> "Arrays":
        """Only so many training images; the classes alternate, so that each stays present."""
        return Arrays(self.x_train[:count], self.y_train[:count], self.x_test, self.y_test, self.classes)


def read(path: str | Path) -> Arrays:
    """An archive that `write` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in ("x_train", "y_train", "x_test", "y_test")}
        return Arrays(**arrays, classes=int(stored["classes"]))


def write(arrays: Arrays, path: Path) -> Path:
    """Uncompressed: it is read by each contender."""
    pixels = {name: getattr(arrays, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, classes=np.int64(arrays.classes), **pixels)
    return path


def sha256(arrays: Arrays) -> str:
    """Of every pixel and label."""
    digest = hashlib.sha256()
    for name in ("x_train", "y_train", "x_test", "y_test"):
        digest.update(np.ascontiguousarray(getattr(arrays, name)).tobytes())
    return digest.hexdigest()


def gather(data: str, *, count: int, tests: int) -> Arrays:
    """At most so many images of CIFAR's two zips, of `digits`, or of any data set that the engine reads.

    Of each class equally many, in turns.

    Raises:
        SystemExit: nothing is found there.
    """
    zips = {split: sorted(Path(data).glob(f"*_{split}.zip")) for split in ("train", "test")}
    if all(len(files) == 1 for files in zips.values()):
        return _of_zips({split: files[0] for split, files in zips.items()}, count=count, tests=tests)
    return _of_engine(data, count=count, tests=tests)


def _of_zips(zips: dict[str, Path], *, count: int, tests: int) -> Arrays:
    found: dict[str, Any] = {}
    classes = 0
    for split, wanted in (("train", count), ("test", tests)):
        with zipfile.ZipFile(zips[split]) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            of_class = [list(members) for _, members in groupby(names, key=lambda name: name.rpartition("/")[0])]
            classes = len(of_class)
            chosen = list(islice(_alternating(of_class), wanted))
            found[f"x_{split}"] = np.stack([_decoded(archive.read(name)) for _, name in chosen])
            found[f"y_{split}"] = np.array([label for label, _ in chosen], dtype=np.int64)
    return Arrays(**found, classes=classes)


def _alternating(of_class: list[list[str]]) -> Iterator[tuple[int, str]]:
    for place in range(max(map(len, of_class))):
        for label, members in enumerate(of_class):
            if place < len(members):
                yield label, members[place]


def _decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _of_engine(data: str, *, count: int, tests: int) -> Arrays:
    from benchmarks.objectives_data import data_spec
    from engine.data.readers import load

    if data != "digits" and not Path(data).exists():
        raise SystemExit(f"--data {data}: expected 'digits' or a folder or archive of images, found nothing.")
    dataset = load(data_spec(data, cache=Path(data)))
    parts = {}
    for split, of, wanted in (("train", dataset.train, count), ("test", dataset.test, tests)):
        rows = slice(0, wanted)
        parts[f"x_{split}"] = np.ascontiguousarray(of.images[rows].permute(0, 2, 3, 1).numpy())
        parts[f"y_{split}"] = of.labels[rows].numpy()
    return Arrays(**parts, classes=len(dataset.classes))


class Pictures(Dataset[tuple[Any, int]]):
    """Made into PIL images and through torchvision's transforms one at a time, as torchvision's CIFAR10 does it."""

    def __init__(self, arrays: Arrays) -> None:
        self.pixels = arrays.x_train if arrays.channels > 1 else arrays.x_train[..., 0]
        self.labels = arrays.y_train.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(arrays.size, padding=max(1, arrays.size // 8)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(arrays.mean, arrays.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]
