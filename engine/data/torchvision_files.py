"""The files of torchvision's data sets, below a local root in torchvision's own layout. Nothing is downloaded.

CIFAR's files are pickles, and unpickling can run code. Each file is therefore read once, those very bytes are held
against the MD5 that torchvision records for it, and only then unpickled, by an unpickler that knows nothing but NumPy
arrays. A file with another checksum is refused before that. STL10 and SVHN are checked in the same way; the MNIST
family is read by `engine.data.idx`, which holds each file's length against its header.
"""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import MissingDependency, UnreadableData
from distillery.spec.dataset import TorchvisionData
from engine.data import idx, memory, paths
from engine.data.source import Part, Source, class_names, in_memory


def read(spec: TorchvisionData) -> Source:
    """Read the data set `spec.name` below `spec.root`.

    Raises:
        UnreadableData: a file is missing, or is not the one whose checksum torchvision records.
        MissingDependency: torchvision (or, for SVHN, SciPy) is not installed.
    """
    root = paths.existing_folder(spec.root)
    return _READERS[spec.name](spec.name, root)


def _mnist(name: str, root: Path) -> Source:
    folder = root / name / "raw"
    if not folder.is_dir():
        raise UnreadableData(
            f"'{folder}': expected the folder of {name}'s idx files, found nothing.",
            hint=f"'root' is the folder that holds '{name}/raw'; nothing is downloaded.",
        )
    source = idx.read_folder(folder, classes=idx.KNOWN_CLASSES.get(name.lower()))
    return Source(name, source.classes, 1, source.height, source.width, source.train, test=source.test)


def _cifar(name: str, root: Path) -> Source:
    facts = _facts(name)
    folder = root / facts.base_folder
    label_key = "labels" if name == "CIFAR10" else "fine_labels"
    names = _unpickled(folder / facts.meta["filename"], md5=facts.meta["md5"])[facts.meta["key"]]

    def part(listed: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        batches = [_unpickled(folder / file, md5=md5) for file, md5 in listed]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch[label_key]]
        return torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64)

    return _source(name, names, train=part(facts.train_list), test=part(facts.test_list))


def _stl10(name: str, root: Path) -> Source:
    facts = _facts(name)
    folder = root / facts.base_folder
    known = dict([*facts.train_list, *facts.test_list])

    def part(split: str) -> tuple[Tensor, Tensor]:
        pixels, labels = (
            torch.frombuffer(bytearray(_verified(folder / file, md5=known[file])), dtype=torch.uint8)
            for file in (f"{split}_X.bin", f"{split}_y.bin")
        )
        # Stored column by column, and numbered from 1.
        return pixels.view(-1, 3, 96, 96).transpose(2, 3).contiguous(), labels.to(torch.int64) - 1

    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    return _source(name, names, train=part("train"), test=part("test"))


def _svhn(name: str, root: Path) -> Source:
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]  # SciPy ships no types
    except ImportError:
        raise MissingDependency(
            "SVHN's files are in MATLAB's format, read with SciPy, which is not installed.",
            hint="Install it with: pip install scipy",
        ) from None
    facts = _facts(name)

    def part(split: str) -> tuple[Tensor, Tensor]:
        _, file, md5 = facts.split_list[split]
        content = loadmat(io.BytesIO(_verified(root / file, md5=md5)))
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        labels = torch.from_numpy(content["y"].astype(np.int64).reshape(-1))
        return torch.from_numpy(images), labels % 10  # the file calls the digit 0 "10"

    return _source(name, tuple("0123456789"), train=part("train"), test=part("test"))


_READERS: dict[str, Callable[[str, Path], Source]] = {
    "CIFAR10": _cifar,
    "CIFAR100": _cifar,
    "FashionMNIST": _mnist,
    "KMNIST": _mnist,
    "MNIST": _mnist,
    "STL10": _stl10,
    "SVHN": _svhn,
}


def _source(name: str, names: Any, *, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Source:
    classes = class_names([train[1], test[1]], names=names, where=name)
    channels, height, width = train[0].shape[1:]
    parts: list[Part] = [in_memory(*train), in_memory(*test)]
    return Source(name, classes, channels, height, width, train=parts[0], test=parts[1])


def _facts(name: str) -> Any:
    """torchvision's class of that name, which records file names and checksums. No object of it is made."""
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingDependency(
            f"The files of {name} are known to torchvision, which is not installed.",
            hint="Install the torchvision that matches the installed torch.",
        ) from None
    return getattr(datasets, name)


def _verified(file: Path, *, md5: str) -> bytes:
    """The bytes of `file`, after holding them against `md5`."""
    try:
        memory.require(file.stat().st_size, what=f"'{file}'")
        content = file.read_bytes()
    except OSError as error:
        raise UnreadableData(
            f"'{file}' cannot be read: {error.strerror}.",
            hint="'root' is the folder that torchvision unpacked the data set into; nothing is downloaded.",
        ) from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UnreadableData(
            f"'{file}' is not the file that torchvision knows: expected MD5 {md5}, found {found}. It was not opened.",
            hint="It is damaged or of another origin; unpack the original archive again.",
        )
    return content


def _unpickled(file: Path, *, md5: str) -> dict[str, Any]:
    content: dict[str, Any] = _Arrays(io.BytesIO(_verified(file, md5=md5)), encoding="latin1").load()
    return content


class _Arrays(pickle.Unpickler):
    """Knows the three names that an array of bytes is pickled with, and refuses every other one."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _reconstruct
        raise UnreadableData(f"A pickled data file asks for '{module}.{name}', which is not an array. It was refused.")


def _reconstruct(kind: type[NDArray[Any]], shape: tuple[int, ...], code: str | bytes) -> NDArray[Any]:
    return np.ndarray.__new__(kind, shape, np.dtype(code.decode() if isinstance(code, bytes) else code))
