"""Data by name: `digits`, or a folder below the data root, whose format is recognised from its files."""

import os
from pathlib import Path

from distillery.errors import UnknownName, UnreadableData
from distillery.spec.dataset import DatasetSpec, DigitsData, IdxData, ImageFolderData, NamedData, NpzData
from distillery.spec.frozen import nearest
from engine.data import idx, image_folder, paths

ROOT_VARIABLE = "DISTILLERY_DATA"
BUILT_IN = "digits"


def recognise(spec: NamedData, *, data_root: Path | None = None) -> DatasetSpec:
    """The spec of the very data that the name stands for, other fields kept.

    `data_root` is `$DISTILLERY_DATA` when left out.

    Raises:
        UnknownName: no folder has that name.
        UnreadableData: there is no data root, the folder lies outside of it, or its format is not recognised.
    """
    shared = spec.model_dump(exclude={"kind", "name"})
    if spec.name == BUILT_IN:
        return DigitsData(**shared)
    folder = _folder(spec.name, data_root=data_root)
    archives = [entry for entry in paths.entries(folder) if entry.suffix == ".npz"]
    folders = [entry for entry in paths.entries(folder) if entry.is_dir()]
    if idx.has_images(folder):
        return IdxData(path=str(folder), **shared)
    if len(archives) == 1 and not folders:
        return NpzData(path=str(archives[0]), **shared)
    if not archives and _holds_classes(folder, folders):
        return ImageFolderData(path=str(folder), **shared)
    raise UnreadableData(
        f"'{folder}': the format is not recognised; found {paths.listing(folder)}.",
        hint="Expected the four idx files, 'train' or one folder per class, or a single .npz. Unpack archives first.",
    )


def _holds_classes(folder: Path, folders: list[Path]) -> bool:
    return len(folders) > 1 or any((folder / name).is_dir() for name in image_folder.SPLITS["train"])


def _folder(name: str, *, data_root: Path | None) -> Path:
    configured = data_root or os.environ.get(ROOT_VARIABLE)
    if not configured:
        raise UnreadableData(
            f"The data set '{name}' is looked for below the data root, and this worker has none.",
            hint=f"Set ${ROOT_VARIABLE} to the folder that holds '{name}', or give 'kind' and 'path'.",
        )
    root = Path(configured).resolve()
    folder = root / name
    if not folder.is_dir():
        known = [BUILT_IN, *(entry.name for entry in paths.entries(root) if entry.is_dir())] if root.is_dir() else []
        raise UnknownName(
            f"No folder is called '{name}' below the data root '{root}'.",
            hint=nearest(name, known or [BUILT_IN]),
            pointer="/dataset/name",
        )
    if not folder.resolve().is_relative_to(root):
        raise UnreadableData(
            f"'{folder}' is a link that leads out of the data root.",
            hint="Give the data by 'kind' and 'path' instead, or move it below the data root.",
        )
    return folder
