"""The MNIST family's files: read to the byte, and every fault explained with the file's name."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from distillery.errors import UnreadableData
from distillery.spec.dataset import IdxData
from engine.data.readers import load

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


class DataRoot(Protocol):
    def __call__(self, name: str) -> Path: ...


def idx_bytes(array: np.ndarray, *, kind: int = 8) -> bytes:
    header = bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def pixels(count: int, *, side: int = 5) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side), dtype=np.uint8)


def write(folder: Path, **changes: bytes | None) -> Path:
    """Four sound files of 60 and 20 images in 3 classes; `changes` replaces or (None) leaves out some of them."""
    files: dict[str, bytes | None] = {
        TRAIN_IMAGES: idx_bytes(pixels(60)),
        TRAIN_LABELS: idx_bytes(np.arange(60) % 3),
        TEST_IMAGES: idx_bytes(pixels(20)),
        TEST_LABELS: idx_bytes(np.arange(20) % 3),
    }
    files |= changes
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_pixel_and_label_is_read_plain_or_gzipped(tmp_path: Path, packed: str) -> None:
    folder = write(tmp_path / "letters")
    if packed:
        for file in folder.iterdir():
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    dataset = load(IdxData(path=str(folder)))
    assert (dataset.name, dataset.classes, dataset.channels, dataset.image_size) == ("letters", ("0", "1", "2"), 1, 5)
    assert np.array_equal(dataset.test.images[:, 0].numpy(), pixels(20))
    assert dataset.test.labels.tolist() == [row % 3 for row in range(20)]
    for split in (dataset.train, dataset.validation):
        assert np.array_equal(split.images[:, 0].numpy(), pixels(60)[split.ids.numpy()])
        assert torch.equal(split.labels, split.ids % 3)
    assert dataset.test.ids.tolist() == list(range(60, 80))


def test_known_class_names_are_given_to_whole_sets_only(tmp_path: Path) -> None:
    whole = {TRAIN_LABELS: idx_bytes(np.arange(60) % 10), TEST_LABELS: idx_bytes(np.arange(20) % 10)}
    assert load(IdxData(path=str(write(tmp_path / "Fashion_MNIST", **whole)))).classes[1] == "Trouser"
    assert load(IdxData(path=str(write(tmp_path / "fashion-mnist")))).classes == ("0", "1", "2")


def test_packing_changes_no_hash(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain")
    packed = write(tmp_path / "packed", **{TRAIN_IMAGES: None, f"{TRAIN_IMAGES}.gz": idx_bytes(pixels(60))})
    assert load(IdxData(path=str(plain))).sha256 == load(IdxData(path=str(packed))).sha256


def test_fashion_mnist_is_read_whole_with_its_class_names(data_root: DataRoot) -> None:
    dataset = load(IdxData(path=str(data_root("fashion-mnist"))))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54_000, 6_000, 10_000)
    assert (dataset.channels, dataset.image_size) == (1, 28)
    assert dataset.classes[0] == "T-shirt/top"
    assert dataset.classes[9] == "Ankle boot"
    assert torch.bincount(dataset.validation.labels).tolist() == [600] * 10
    assert torch.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7], "the published order"
    # 0.2860 and 0.3530 are published for all 60,000 training images; nine tenths of them differ in the fourth digit.
    assert dataset.mean == pytest.approx((0.2860,), abs=1e-3)
    assert dataset.std == pytest.approx((0.3530,), abs=1e-3)


FAULTS: dict[str, tuple[dict[str, bytes | None], str, str]] = {
    "a file is missing": ({TEST_LABELS: None}, "t10k-labels-idx1-ubyte", "four files"),
    "images are cut short": ({TRAIN_IMAGES: idx_bytes(pixels(60))[:-1]}, TRAIN_IMAGES, "only 1,499"),
    "images run on": ({TRAIN_IMAGES: idx_bytes(pixels(60)) + b"x"}, TRAIN_IMAGES, "found more"),
    "labels are cut short": ({TRAIN_LABELS: idx_bytes(np.arange(60) % 3)[:-9]}, TRAIN_LABELS, "only 51"),
    "the header is cut": ({TRAIN_IMAGES: idx_bytes(pixels(60))[:9]}, TRAIN_IMAGES, "within its header"),
    "the file is empty": ({TRAIN_IMAGES: b""}, TRAIN_IMAGES, "an empty file"),
    "the file is a PNG": ({TRAIN_IMAGES: b"\x89PNG\r\n\x1a\n" + b"0" * 99}, TRAIN_IMAGES, "found 89 50 4e 47"),
    "the file is gzipped in secret": ({TRAIN_IMAGES: gzip.compress(idx_bytes(pixels(60)))}, TRAIN_IMAGES, "1f 8b"),
    "values are 32-bit": ({TRAIN_IMAGES: idx_bytes(pixels(60), kind=12)}, TRAIN_IMAGES, "00 00 0c 03"),
    "labels stand in the images' place": ({TRAIN_IMAGES: idx_bytes(np.arange(60) % 3)}, TRAIN_IMAGES, "00 00 08 01"),
    "images stand in the labels' place": ({TRAIN_LABELS: idx_bytes(pixels(60))}, TRAIN_LABELS, "1 dimension"),
    "there are no images": ({TRAIN_IMAGES: idx_bytes(pixels(0))}, TRAIN_IMAGES, "is empty"),
    "counts differ": ({TRAIN_LABELS: idx_bytes(np.arange(59) % 3)}, TRAIN_LABELS, "60 images .* 59 labels"),
    "sizes differ": ({TEST_IMAGES: idx_bytes(pixels(20, side=6))}, "broken", "5x5 pixels .* 6x6"),
    "labels start at 1": ({TRAIN_LABELS: idx_bytes(np.arange(60) % 3 + 1)}, "broken", "1, 2, 3; expected .* 0 to 2"),
    "labels have a gap": ({TRAIN_LABELS: idx_bytes(np.arange(60) % 3 * 2)}, "broken", "0, 2, 4; expected"),
    "a class is in the test alone": ({TEST_LABELS: idx_bytes(np.arange(20) % 4)}, "broken", "labels 3 occur outside"),
    "one image is promised and a billion missing": (
        {TRAIN_IMAGES: bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)},
        TRAIN_IMAGES,
        "GiB are available",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_the_files_name_and_a_way_to_mend_it(tmp_path: Path, fault: str) -> None:
    changes, names, says = FAULTS[fault]
    folder = write(tmp_path / "broken", **changes)
    with pytest.raises(UnreadableData, match=says) as caught:
        load(IdxData(path=str(folder)))
    assert names in caught.value.detail
    assert caught.value.hint
    assert caught.value.pointer == "/dataset/path"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda whole: whole[:-200], "not a whole gzip file"),
        (lambda whole: whole[:-8] + b"\0" * 8, "CRC check failed"),
        (lambda whole: whole + b"surplus", "not a whole gzip file"),
        (lambda whole: b"no gzip at all", "Not a gzipped file"),
        (lambda whole: whole[:60] + b"\xff" * 40 + whole[100:], "not a whole gzip file"),
    ],
)
def test_a_damaged_gzip_file_is_told(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    folder = write(tmp_path / "broken", **{TRAIN_IMAGES: None})
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(damage(gzip.compress(idx_bytes(pixels(60)))))
    with pytest.raises(UnreadableData, match=says) as caught:
        load(IdxData(path=str(folder)))
    assert f"{TRAIN_IMAGES}.gz" in caught.value.detail


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    folder = write(tmp_path / "broken", **{TRAIN_IMAGES: None})
    bomb = idx_bytes(pixels(60)) + b"\0" * 50_000_000
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(UnreadableData, match="found more"):
        load(IdxData(path=str(folder)))


@pytest.mark.parametrize("path", ["nowhere", "a\0b", "x" * 5000])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, path: str) -> None:
    spec = IdxData.model_construct(path=str(tmp_path / path), image_size=None, kind="idx")
    with pytest.raises(UnreadableData):
        load(spec)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableData, match="expected a folder, found a file"):
        load(IdxData(path=str(tmp_path / "file")))
