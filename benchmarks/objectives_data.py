"""Which data a folder on the command line of `objectives.py` holds."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillery.spec.dataset import DatasetSpec, DigitsData, NamedData, NpzData, TorchvisionData
from engine.data.named import recognise

_TORCHVISION = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}


def data_spec(data: str, *, cache: Path, **shared: Any) -> DatasetSpec:
    """The spec of `digits`, a `.npz` file, torchvision's CIFAR files, two zips of images, or any folder we can read.

    Zips are decoded once into an archive below `cache`.
    """
    if data == "digits":
        return DigitsData(**shared)
    path = Path(data)
    if path.suffix == ".npz":
        return NpzData(path=data, **shared)
    for name, data_set in _TORCHVISION.items():
        if (path / name).is_dir():
            return TorchvisionData.model_validate({"name": data_set, "root": data, **shared})
    if zips := _zips(path):
        archive = cache / f"{path.name}.npz"
        if not archive.is_file():
            _unpack(zips, archive)
        return NpzData(path=str(archive), classes=_classes(zips["train"]), **shared)
    return recognise(NamedData(name=path.resolve().name, **shared), data_root=path.resolve().parent)


def _zips(folder: Path) -> dict[str, Path]:
    found = {split: list(folder.glob(f"*_{split}.zip")) for split in ("train", "test")}
    return {split: files[0] for split, files in found.items()} if all(len(one) == 1 for one in found.values()) else {}


def _members(file: Path) -> list[tuple[str, str]]:
    """Class and name of every image of a zip that holds `<split>/<class>/<image>`."""
    with zipfile.ZipFile(file) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    return [(name.split("/")[-2], name) for name in names]


def _classes(file: Path) -> tuple[str, ...]:
    return tuple(sorted({name for name, _ in _members(file)}))


def _unpack(zips: dict[str, Path], archive: Path) -> None:
    """Decode every image once; the archive appears only when it is whole."""
    numbers = {name: number for number, name in enumerate(_classes(zips["train"]))}
    arrays: dict[str, NDArray[Any]] = {}
    for split, file in zips.items():
        print(f"decoding {file.name} into {archive}", flush=True)
        members = _members(file)
        with zipfile.ZipFile(file) as opened:
            arrays[f"x_{split}"] = np.stack([_decoded(opened.read(name)) for _, name in members])
        arrays[f"y_{split}"] = np.array([numbers[name] for name, _ in members], dtype=np.int64)
    half = archive.with_suffix(".half.npz")
    np.savez(half, **arrays)
    half.replace(archive)


def _decoded(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
