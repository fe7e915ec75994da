"""Folders of images: real WebP, JPEG and PNG files, each fault told with the file's or folder's name."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.errors import UnreadableData
from distillery.spec.dataset import ImageFolderData
from engine.data.dataset import Dataset
from engine.data.image_folder import decoded
from engine.data.readers import load

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataRoot(Protocol):
    def __call__(self, name: str) -> Path: ...


def picture(seed: int, *, width: int = 8, height: int = 8, mode: str = "RGB") -> Image.Image:
    """A picture of random pixels."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=None)


def fill(folder: Path, *, count: int = 6, suffix: str = ".png", width: int = 8, height: int = 8) -> Path:
    """`count` pictures in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number + sum(folder.name.encode()), width=width, height=height).save(folder / f"{number:03}{suffix}")
    return folder


def flat(root: Path, *classes: str) -> Path:
    """One folder per class."""
    for name in classes or ("cat", "dog"):
        fill(root / name)
    return root


def with_splits(root: Path, *splits: str) -> Path:
    for split in splits:
        flat(root / split)
    return root


def read(root: Path, **fields: object) -> Dataset:
    return load(ImageFolderData(path=str(root), **fields))  # type: ignore[arg-type]  # varied by the tests


def test_cifar10_is_read_from_webp_pixel_for_pixel(tmp_path: Path, data_root: DataRoot) -> None:
    with zipfile.ZipFile(data_root("cifar10") / "cifar10_test.zip") as archive:
        wanted = [name for name in archive.namelist() if name.endswith((".webp",)) and int(Path(name).stem) < 20]
        archive.extractall(tmp_path, members=wanted)
    root = tmp_path / "test"
    dataset = read(root)
    assert dataset.classes == CIFAR_CLASSES
    assert (dataset.channels, dataset.image_size) == (3, 32)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [140, 20, 40]
    files = [root / name / f"{number:04}.webp" for name in CIFAR_CLASSES for number in range(20)]
    for split in (dataset.train, dataset.validation, dataset.test):
        for image, label, ident in zip(split.images, split.labels, split.ids.tolist(), strict=True):
            assert label == ident // 20
            with Image.open(files[ident]) as oracle:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(oracle.convert("RGB")))


def test_a_flat_folder_is_split_by_class_in_the_order_of_the_names(tmp_path: Path) -> None:
    dataset = read(flat(tmp_path / "pets", "zebra", "Ape", "10", "9"))
    assert dataset.classes == ("10", "9", "Ape", "zebra")
    assert dataset.name == "pets"
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 24


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_split_folders_are_read_as_they_are(tmp_path: Path, validation: str) -> None:
    dataset = read(with_splits(tmp_path, "train", validation, "test"))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [12, 12, 12]
    assert dataset.train.ids.tolist() == list(range(12))
    assert dataset.validation.ids.tolist() == list(range(12, 24))
    assert dataset.test.ids.tolist() == list(range(24, 36))


def test_reading_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    root = flat(tmp_path / "pets")
    assert read(root, image_size=5).sha256 == read(root, image_size=5).sha256


def test_grey_is_read_when_one_channel_is_asked_for(tmp_path: Path) -> None:
    dataset = read(flat(tmp_path / "pets"), channels=1)
    assert dataset.channels == 1
    with Image.open(tmp_path / "pets" / "cat" / "000.png") as oracle:
        assert np.array_equal(all_images(dataset)[0, 0], np.asarray(oracle.convert("L")))


def all_images(dataset: Dataset) -> np.ndarray:
    splits = (dataset.train, dataset.validation, dataset.test)
    order = torch.cat([split.ids for split in splits]).argsort()
    return torch.cat([split.images for split in splits])[order].numpy()


def test_mixed_sizes_are_cut_and_resized_one_by_one_when_a_size_is_given(tmp_path: Path) -> None:
    root = flat(tmp_path / "pets")
    picture(1, width=40, height=20).save(root / "cat" / "000.png")
    dataset = read(root, image_size=10)
    with Image.open(root / "cat" / "000.png") as image:
        oracle = np.asarray(image.crop((10, 0, 30, 20)).resize((10, 10), Image.Resampling.BILINEAR))
    found = all_images(dataset)[0].transpose(1, 2, 0)
    assert np.abs(found.astype(int) - oracle.astype(int)).max() <= 1
    assert any("10x10" in note for note in dataset.notes)


def test_hidden_files_and_files_beside_the_class_folders_do_not_matter(tmp_path: Path) -> None:
    root = with_splits(tmp_path, "train", "test")
    before = read(root).sha256
    (root / "train" / "cat" / ".DS_Store").write_text("")
    (root / "train" / ".cache").mkdir()
    (root / "README.txt").write_text("")
    (root / "train" / "labels.csv").write_text("")
    assert read(root).sha256 == before


def test_a_limit_decodes_no_more_than_it_needs(tmp_path: Path) -> None:
    root = with_splits(tmp_path, "train", "val", "test")
    for name in ("cat", "dog"):
        fill(root / "train" / name, count=30)
    kept = read(root, limit=10).train.ids.tolist()
    files = [root / "train" / name / f"{number:03}.png" for name in ("cat", "dog") for number in range(30)]
    for row, file in enumerate(files):
        if row not in (0, *kept):
            file.write_bytes(b"broken")
    assert read(root, limit=10).train.ids.tolist() == kept


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_mode_is_decoded(tmp_path: Path, mode: str, channels: int) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    image = picture(0).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / f"image{suffix}")
    found = decoded(tmp_path / f"image{suffix}", channels=channels)
    assert found.shape == (channels, 8, 8)
    assert found.dtype == torch.uint8


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.array_equal(decoded(tmp_path / "deep.png", channels=1)[0].numpy(), values // 256)
    assert torch.equal(*decoded(tmp_path / "deep.png", channels=3)[:2])


def _bytes_of(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


BROKEN: dict[str, Callable[[], bytes]] = {
    "an empty file": lambda: b"",
    "text": lambda: b"this is no image",
    "a PNG cut short": lambda: _bytes_of(picture(0, width=64, height=64), "PNG")[:2000],
    "a PNG with a damaged header": lambda: (
        _bytes_of(picture(0), "PNG")[:16] + b"\xff" * 8 + _bytes_of(picture(0), "PNG")[24:]
    ),
    "a JPEG cut short": lambda: _bytes_of(picture(0, width=64, height=64), "JPEG")[:900],
    "a WebP cut short": lambda: _bytes_of(picture(0, width=64, height=64), "WEBP")[:300],
    "a GIF called PNG": lambda: _bytes_of(picture(0), "GIF"),
    "a BMP called PNG": lambda: _bytes_of(picture(0), "BMP"),
    "a PostScript file called PNG": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_is_named(tmp_path: Path, what: str) -> None:
    root = flat(tmp_path / "pets")
    (root / "dog" / "004.png").write_bytes(BROKEN[what]())
    with pytest.raises(UnreadableData, match=r"not a whole JPEG, PNG or WebP image") as caught:
        read(root)
    assert str(root / "dog" / "004.png") in caught.value.detail
    assert caught.value.hint


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and holds none."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_100, 10_000, 50_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with pytest.raises(UnreadableData, match=r"bomb\.png.*(pixels; at most 64,000,000|decompression bomb)"):
        decoded(tmp_path / "bomb.png", channels=3)


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(UnreadableData, match=r"huge\.png' has 67,108,865 bytes"):
        decoded(tmp_path / "huge.png", channels=3)


def test_too_many_images_for_the_memory_are_refused_before_decoding(tmp_path: Path) -> None:
    root = flat(tmp_path / "pets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.data.memory.available_bytes", lambda: 20_000_000)
        with pytest.raises(UnreadableData, match=r"'pets' at 1024x1024 pixels needs 0\.04 GiB in memory; 0\.02 GiB"):
            read(root, image_size=1024)


def _empty(root: Path) -> None:
    for file in (root / "train" / "dog").iterdir():
        file.unlink()


def _loose_image(root: Path) -> None:
    picture(0).save(root / "train" / "lost.png")


def _larger_image(root: Path) -> None:
    picture(0, width=9, height=9).save(root / "train" / "dog" / "005.png")


STRUCTURE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a class without images": (_empty, "train/dog", "holds no images"),
    "an image beside the classes": (_loose_image, "train", "one folder per class"),
    "a folder within a class": (lambda root: (root / "train" / "dog" / "puppies").mkdir(), "puppies", "found a folder"),
    "a foreign file in a class": (
        lambda root: (root / "train" / "dog" / "notes.txt").write_text(""), "notes.txt", "another format",
    ),
    "a class in the test alone": (lambda root: fill(root / "test" / "cow"), "test", "'cow' only in the others"),
    "a class missing in validation": (
        lambda root: flat(root / "val", "cat"), "val", "'dog' only in the training images",
    ),
    "two validation folders": (
        lambda root: with_splits(root, "val", "validation"), "val", "holds both 'val' and 'validation'",
    ),
    "no training folder": (lambda root: (root / "train").rename(root / "training"), "test", "no folder 'train'"),
    "an empty training folder": (
        lambda root: (root / "train").rename(root / "old") and (root / "train").mkdir(), "train", "found nothing",
    ),
    "images of mixed sizes": (_larger_image, "train/dog/005.png", "has 9 pixels, that of the first image 8"),
}  # fmt: skip


@pytest.mark.parametrize("fault", STRUCTURE)
def test_a_fault_of_the_folders_is_told_with_its_name_and_a_way_to_mend_it(tmp_path: Path, fault: str) -> None:
    change, names, says = STRUCTURE[fault]
    root = with_splits(tmp_path / "pets", "train", "test")
    change(root)
    with pytest.raises(UnreadableData, match=says) as caught:
        read(root)
    assert names in caught.value.detail
    assert caught.value.hint
    assert caught.value.pointer.startswith("/dataset/")
