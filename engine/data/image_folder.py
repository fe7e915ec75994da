"""Folders of images: one sub-folder per class, optionally below `train`, `val` or `validation`, and `test`.

Images are decoded only when a split asks for them, each cut to its centred square and resized on its own, so that
photographs of mixed sizes never stand in memory side by side. Orientation tags and transparency are ignored.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distillery.errors import MissingDependency, UnreadableData
from distillery.spec.dataset import ImageFolderData
from engine.cores import usable_cores
from engine.data import paths
from engine.data.resize import squared
from engine.data.source import Part, Source

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
"""The decoders that may run. Pillow has dozens more, most of them old and rarely looked at."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SPLITS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
_MODES = {1: "L", 3: "RGB"}
_THREADS = 8
_FILES_AT_ONCE = 1024


@dataclass(frozen=True)
class ImageFiles:
    """The files of one split; called with rows (int64 [n]) it decodes them to uint8 [n, C, size, size]."""

    files: tuple[Path, ...]
    channels: int
    size: int
    mixed: bool
    """Whether images of another size are resized, rather than refused."""

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty((len(rows), self.channels, self.size, self.size), dtype=torch.uint8)
        wanted = [self.files[row] for row in rows.tolist()]
        with ThreadPoolExecutor(min(_THREADS, usable_cores())) as pool:
            for start in range(0, len(wanted), _FILES_AT_ONCE):  # in runs, so that a broken file ends the work soon
                for offset, image in enumerate(pool.map(self._one, wanted[start : start + _FILES_AT_ONCE])):
                    out[start + offset] = image
        return out

    def _one(self, file: Path) -> Tensor:
        image = decoded(file, channels=self.channels)
        if not self.mixed and min(image.shape[1:]) != self.size:
            raise UnreadableData(
                f"'{file}': its short side has {min(image.shape[1:])} pixels, that of the first image {self.size}.",
                hint="Set 'image_size': images of mixed sizes are then resized to it.",
                pointer="/dataset/image_size",
            )
        return squared(image.unsqueeze(0), size=self.size)[0]


def read(spec: ImageFolderData) -> Source:
    """Find the images below `spec.path`; they are decoded when a split is taken.

    Raises:
        UnreadableData: a split or class folder is missing, empty or foreign, or the first image is unreadable.
        MissingDependency: Pillow is not installed.
    """
    root = paths.existing_folder(spec.path)
    folders = _split_folders(root)
    classes = {split: _class_folders(folder) for split, folder in folders.items()}
    _same_classes(folders, classes)
    found = {split: _files(class_folders) for split, class_folders in classes.items()}
    _no_class_untrained(found["train"], classes["train"])
    first = decoded(found["train"][0][0], channels=spec.channels)
    size = spec.image_size or min(first.shape[1:])
    parts = {
        split: Part(labels, ImageFiles(files, spec.channels, size, mixed=spec.image_size is not None))
        for split, (files, labels) in found.items()
        if files
    }
    return Source(
        name=root.name,
        classes=tuple(folder.name for folder in classes["train"]),
        channels=spec.channels,
        height=size,
        width=size,
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        notes=(f"Images were cut to their centred square and, where it was not {size}x{size}, resized (bilinear).",),
    )


def decoded(file: Path, *, channels: int) -> Tensor:
    """The image in `file`, uint8 [channels, H, W].

    Raises:
        UnreadableData: it is not a whole JPEG, PNG or WebP image, or larger than `MAX_FILE_BYTES` or `MAX_PIXELS`.
        MissingDependency: Pillow is not installed.
    """
    return decoded_bytes(
        _content(file),
        channels=channels,
        named=f"'{file}'",
        hint="Replace the file or remove it from its class folder.",
    )


def decoded_bytes(
    content: bytes, *, channels: int, named: str, hint: str = "", most_pixels: int = MAX_PIXELS
) -> Tensor:
    """The image in the bytes of a file, uint8 [channels, H, W]; `named` is what a message calls it, `hint` its mend.

    Raises:
        UnreadableData: it is not a whole JPEG, PNG or WebP image, or larger than `most_pixels`.
        MissingDependency: Pillow is not installed.
    """
    try:
        import PIL
        from PIL import Image
    except ImportError:
        raise MissingDependency(
            "Image folders are read with Pillow, which is not installed.", hint="Install it with: pip install pillow"
        ) from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise UnreadableData(
                    f"{named} has {image.width}x{image.height} pixels; at most {most_pixels:,} are decoded.",
                    hint="Scale the image down.",
                )
            return _pixels(image, channels=channels)
    except UnreadableData:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type of exception on damaged bytes
        # What is no image at all is told with the address of the bytes in memory.
        why = "" if isinstance(error, PIL.UnidentifiedImageError) else f": {error}"
        raise UnreadableData(f"{named} is not a whole JPEG, PNG or WebP image{why}.", hint=hint) from None


def _pixels(image: "Image.Image", *, channels: int) -> Tensor:
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit grey at 255; the high byte is the same picture in 8 bits.
        grey = torch.from_numpy((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return grey.expand(channels, -1, -1).contiguous()
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with transparency is told apart only so
    pixels = torch.from_numpy(np.array(image.convert(_MODES[channels])))
    return pixels.view(*pixels.shape[:2], channels).permute(2, 0, 1).contiguous()


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise UnreadableData(f"'{file}' cannot be read: {error.strerror}.") from None
    if size > MAX_FILE_BYTES:
        raise UnreadableData(
            f"'{file}' has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.", hint="Scale the image down."
        )
    return content


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, training first; a root without `train` is one folder of classes."""
    found = {split: [root / name for name in names if (root / name).is_dir()] for split, names in SPLITS.items()}
    for folders in found.values():
        if len(folders) > 1:
            raise UnreadableData(
                f"'{root}' holds both '{folders[0].name}' and '{folders[1].name}'.", hint="Keep one of the two."
            )
    if found["train"]:
        return {split: folders[0] for split, folders in found.items() if folders}
    lonely = [folders[0].name for folders in found.values() if folders]
    if lonely:
        raise UnreadableData(
            f"'{root}' holds '{lonely[0]}' but no folder 'train'; found {paths.listing(root)}.",
            hint="Put the training images below 'train', or all images below one folder per class.",
        )
    return {"train": root}


def _class_folders(folder: Path) -> list[Path]:
    entries = paths.entries(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    if not folders or loose:
        raise UnreadableData(
            f"'{folder}': expected one folder per class; found {paths.listing(folder)}.",
            hint="Put each image into a folder named after its class. Unpack archives first.",
        )
    return folders


def _same_classes(folders: dict[str, Path], classes: dict[str, list[Path]]) -> None:
    train = {folder.name for folder in classes["train"]}
    for split, class_folders in classes.items():
        other = {folder.name for folder in class_folders}
        if other != train:
            raise UnreadableData(
                f"'{folders[split]}' and '{folders['train']}' hold different classes: "
                f"{_shown(train - other)} only in the training images, {_shown(other - train)} only in the others.",
                hint="Every split needs the same class folders; one may be empty outside 'train'.",
            )


def _shown(names: set[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(f"'{name}'" for name in listed[:5]) + more if listed else "none"


def _files(class_folders: Sequence[Path]) -> tuple[tuple[Path, ...], Tensor]:
    """Every image of the class folders, in their order, with its label; files are sorted by name."""
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(class_folders):
        images = _images(folder)
        files.extend(images)
        labels.extend([label] * len(images))
    return tuple(files), torch.tensor(labels, dtype=torch.int64)


def _images(folder: Path) -> list[Path]:
    entries = paths.entries(folder)
    foreign = next((e for e in entries if e.suffix.lower() not in SUFFIXES or not e.is_file()), None)
    if foreign is not None:
        found = "a folder" if foreign.is_dir() else "a file of another format"
        raise UnreadableData(
            f"'{foreign}': expected images ({', '.join(SUFFIXES)}) in a class folder, found {found}.",
            hint="Convert it or move it away; class folders are not searched deeper.",
        )
    return entries


def _no_class_untrained(found: tuple[tuple[Path, ...], Tensor], classes: Sequence[Path]) -> None:
    counts = torch.bincount(found[1], minlength=len(classes))
    empty = [folder for folder, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise UnreadableData(
            f"'{empty[0]}' holds no images.", hint="Add images of that class, or remove its folder from every split."
        )
