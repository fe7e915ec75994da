"""NumPy archives: `x_train, y_train, x_test, y_test` (and `x_val, y_val`), or `images, labels`.

Nothing is unpickled: arrays of objects are refused. Shapes and lengths are checked against the archive's directory
before any array is made, so a small file cannot ask for a large memory.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import UnreadableData
from distillery.spec.dataset import NpzData
from engine.data import memory, paths
from engine.data.source import Part, Source, class_names, in_memory

PAIRS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
SINGLE = ("images", "labels")
_CHANNELS = (1, 3)
_VALUES_AT_ONCE = 2**24
_EXPECTED = "Expected 'x_train, y_train, x_test, y_test' (and 'x_val, y_val'), or 'images, labels'."
_MEND_FILE = "Write it again with numpy.savez_compressed."


def read(spec: NpzData) -> Source:
    """Read the archive `spec.path`.

    Raises:
        UnreadableData: the archive or an array in it is damaged, missing, or of a shape, type or range that images
            and labels do not have.
    """
    file = paths.existing_file(spec.path)
    arrays = _arrays(file)
    pairs = {split: _pair(file, arrays, names) for split, names in _pairs(file, arrays).items()}
    images = {split: _as_images(file, array) for split, (array, _) in pairs.items()}
    _same_shape(file, images)
    names = class_names([labels for _, labels in pairs.values()], names=spec.classes, where=f"'{file}'")
    parts: dict[str, Part] = {split: in_memory(images[split], labels) for split, (_, labels) in pairs.items()}
    channels, height, width = images["train"].shape[1:]
    return Source(file.stem, names, channels, height, width, parts["train"], parts.get("validation"), parts.get("test"))


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, archive)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in _known_names()}
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableData(f"'{file}' is not a sound NumPy archive: {error}.", hint=_MEND_FILE) from None


def _known_names() -> set[str]:
    return {name for pair in (*PAIRS.values(), SINGLE) for name in pair}


def _check_members(file: Path, archive: zipfile.ZipFile) -> None:
    """Hold each array's header against its length in the archive, and the sum against the memory that is left."""
    total = 0
    for member in archive.infolist():
        if member.filename.removesuffix(".npy") not in _known_names():
            continue
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            if version > (2, 0):
                raise ValueError(f"'{member.filename}' has named fields")
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
            if dtype.hasobject:
                raise UnreadableData(
                    f"'{file}': the array '{member.filename.removesuffix('.npy')}' holds Python objects, which could "
                    "run code when they are read.",
                    hint="Store images as uint8 and labels as int64.",
                )
            promised, found = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if promised != found:
            raise ValueError(f"'{member.filename}' should hold {promised:,} bytes and holds {found:,}")
        total += found
    memory.require(total, what=f"'{file}'")


def _pairs(file: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, str]]:
    """Which array holds what, by split, training first."""
    single, split = set(SINGLE) & set(arrays), set(arrays) - set(SINGLE)
    if single and split:
        raise UnreadableData(f"'{file}' holds both {_quoted(single)} and {_quoted(split)}.", hint=_EXPECTED)
    wanted = {"train": SINGLE} if single else {name: pair for name, pair in PAIRS.items() if set(pair) & set(arrays)}
    wanted = {"train": wanted.get("train", PAIRS["train"]), **wanted}
    missing = {name for pair in wanted.values() for name in pair} - set(arrays)
    if missing:
        with np.load(file, allow_pickle=False) as archive:
            found = _quoted(archive.files[:12])
        raise UnreadableData(f"'{file}': {_quoted(missing)} is missing; found {found}.", hint=_EXPECTED)
    return wanted


def _pair(file: Path, arrays: Mapping[str, NDArray[Any]], names: tuple[str, str]) -> tuple[NDArray[Any], Tensor]:
    images, labels = arrays[names[0]], arrays[names[1]]
    where = f"'{file}': the array '{names[1]}'"
    if labels.ndim != 1:
        hint = "Turn one-hot rows into numbers with .argmax(1), and columns into a row with .reshape(-1)."
        raise UnreadableData(f"{where} must have one dimension and has shape {labels.shape}.", hint=hint)
    if labels.dtype.kind not in "iu":
        hint = "Turn names into numbers with numpy.unique(..., return_inverse=True) and give 'classes'."
        raise UnreadableData(f"{where} must hold integers and holds {labels.dtype}.", hint=hint)
    if images.ndim == 0 or len(images) != len(labels) or len(labels) == 0:
        counts = f"{len(labels)} labels for {len(images) if images.ndim else 0} images"
        raise UnreadableData(f"{where} has {counts} in '{names[0]}'.", hint="Give each image one label.")
    if int(labels.max()) >= 2**31:
        raise UnreadableData(f"{where} runs up to {labels.max()}.", hint="Number the classes from 0 without gaps.")
    return images, torch.from_numpy(labels.astype(np.int64))


def _as_images(file: Path, array: NDArray[Any]) -> Tensor:
    """uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W]."""
    pixels = torch.from_numpy(_as_bytes(file, array))
    if array.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif _channels_last(file, array):
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    if 0 in pixels.shape:
        raise UnreadableData(f"'{file}': images of shape {array.shape} have no pixels.", hint=_MEND_FILE)
    return pixels


def _channels_last(file: Path, array: NDArray[Any]) -> bool:
    first, last = (array.ndim == 4 and array.shape[axis] in _CHANNELS for axis in (1, 3))
    if first == last:
        why = "could be [N, C, H, W] or [N, H, W, C]" if first else "is none of [N, H, W], [N, H, W, C], [N, C, H, W]"
        raise UnreadableData(
            f"'{file}': an image array of shape {array.shape} {why} with 1 or 3 channels.",
            hint="Store grey images as [N, H, W] and colour images as [N, H, W, 3].",
        )
    return last


def _as_bytes(file: Path, array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise UnreadableData(
            f"'{file}': images must be uint8 or floats from 0 to 1, and are {array.dtype}.",
            hint="If the values run from 0 to 255, store them with .astype('uint8').",
        )
    out = np.empty(array.shape, dtype=np.uint8)
    flat, target = np.ascontiguousarray(array).reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _VALUES_AT_ONCE):  # in pieces, so that no second copy in float64 is made
        piece = flat[start : start + _VALUES_AT_ONCE].astype(np.float64)
        if not ((piece >= 0) & (piece <= 1)).all():  # false for NaN too
            raise UnreadableData(
                f"'{file}': float images must lie between 0 and 1; found {piece.min():g} to {piece.max():g}.",
                hint="Store the original pixels as uint8, or scale them to 0 to 1 without subtracting a mean.",
            )
        target[start : start + _VALUES_AT_ONCE] = np.rint(piece * 255)
    return out


def _same_shape(file: Path, images: Mapping[str, Tensor]) -> None:
    shapes = {split: tuple(tensor.shape[1:]) for split, tensor in images.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise UnreadableData(
            f"'{file}': the splits differ in channels, height or width: {told}.", hint="Bring all to one shape."
        )


def _quoted(names: "set[str] | list[str]") -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "no array"
