"""NumPy archives: every accepted layout gives the same pixels, everything else is explained."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.errors import UnreadableData
from distillery.spec.dataset import NpzData
from engine.data.dataset import Dataset
from engine.data.readers import load

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
LABELS = np.arange(40) % 4


def read(folder: Path, **arrays: Any) -> Dataset:
    np.savez_compressed(folder / "set.npz", **arrays)
    return load(NpzData(path=str(folder / "set.npz")))


def all_pixels(dataset: Dataset) -> np.ndarray:
    """[N, C, H, W] in the order of the ids."""
    splits = (dataset.train, dataset.validation, dataset.test)
    ids = np.concatenate([split.ids.numpy() for split in splits])
    return np.concatenate([split.images.numpy() for split in splits])[ids.argsort()]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR / 255, COLOUR.transpose(0, 3, 1, 2)),
        ((COLOUR / 255).astype(np.float16), COLOUR.transpose(0, 3, 1, 2)),
        ((COLOUR / 255).astype(">f4"), COLOUR.transpose(0, 3, 1, 2)),
    ],
)
def test_every_layout_gives_the_same_pixels(tmp_path: Path, images: np.ndarray, expected: np.ndarray) -> None:
    dataset = read(tmp_path, images=images, labels=LABELS)
    assert np.array_equal(all_pixels(dataset), expected)
    assert dataset.channels == expected.shape[1]
    assert dataset.name == "set"
    assert dataset.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("kind", ["uint8", "int16", ">i4", "int64", "uint64"])
def test_labels_of_every_integer_type_are_read(tmp_path: Path, kind: str) -> None:
    dataset = read(tmp_path, images=GREY, labels=LABELS.astype(kind))
    assert sorted(dataset.test.labels.unique().tolist()) == [0, 1, 2, 3]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert (split.labels == split.ids % 4).all()


def test_three_splits_are_read_as_they_are(tmp_path: Path) -> None:
    dataset = read(
        tmp_path, x_train=GREY, y_train=LABELS, x_val=GREY[:8], y_val=LABELS[:8], x_test=GREY[:4], y_test=LABELS[:4],
        extra=np.arange(3),
    )  # fmt: skip
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (40, 8, 4)
    assert np.array_equal(dataset.validation.images[:, 0].numpy(), GREY[:8])
    assert dataset.notes == ()


def test_class_names_are_taken_from_the_spec(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=GREY, labels=LABELS)
    assert load(NpzData(path=str(tmp_path / "d.npz"), classes=("a", "b", "c", "d"))).classes == ("a", "b", "c", "d")
    with pytest.raises(UnreadableData, match="two classes are called 'a'"):
        load(NpzData(path=str(tmp_path / "d.npz"), classes=("a", "b", "a", "d")))
    with pytest.raises(UnreadableData, match=r"0, 1, 2, 3; expected every number from 0 to 1 \(one for each class"):
        load(NpzData(path=str(tmp_path / "d.npz"), classes=("a", "b")))


X = {"x_train": GREY, "y_train": LABELS}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown names": (
        {"pixels": GREY, "targets": LABELS},
        "'x_train', 'y_train' is missing; found 'pixels', 'targets'",
    ),
    "images without labels": ({"images": GREY}, "'labels' is missing"),
    "no training part": ({"x_test": GREY, "y_test": LABELS}, "'x_train', 'y_train' is missing"),
    "test images without labels": ({**X, "x_test": GREY}, "'y_test' is missing"),
    "both forms": ({**X, "images": GREY, "labels": LABELS}, "holds both"),
    "an object array": ({"images": GREY, "labels": np.array(["cat", 1] * 20, dtype=object)}, "Python objects"),
    "labels are words": ({"images": GREY, "labels": np.array(["cat", "dog"] * 20)}, "must hold integers"),
    "labels are floats": ({"images": GREY, "labels": LABELS.astype(float)}, "must hold integers and holds float64"),
    "labels are one-hot": ({"images": GREY, "labels": np.eye(4, dtype=int)[LABELS]}, r"shape \(40, 4\)"),
    "labels start at 1": ({"images": GREY, "labels": LABELS + 1}, "1, 2, 3, 4; expected every number from 0"),
    "labels are negative": ({"images": GREY, "labels": LABELS - 1}, "-1, 0, 1, 2; expected every number from 0"),
    "labels are gigantic": (
        {"images": GREY, "labels": LABELS.astype(np.uint64) + 2**63},
        "runs up to 9223372036854775811",
    ),
    "too few labels": ({"images": GREY, "labels": LABELS[:-1]}, "39 labels for 40 images"),
    "nothing inside": ({"images": GREY[:0], "labels": LABELS[:0]}, "0 labels for 0 images"),
    "one number for images": ({"images": np.uint8(3), "labels": LABELS}, "40 labels for 0 images"),
    "images are flat": ({"images": GREY.reshape(40, 36), "labels": LABELS}, r"\(40, 36\) is none of"),
    "images are videos": ({"images": np.zeros((40, 2, 6, 6, 3), np.uint8), "labels": LABELS}, "is none of"),
    "four channels": ({"images": np.zeros((40, 6, 6, 4), np.uint8), "labels": LABELS}, "is none of"),
    "ambiguous channels": ({"images": np.zeros((40, 3, 6, 3), np.uint8), "labels": LABELS}, "could be"),
    "no pixels": ({"images": np.zeros((40, 0, 6), np.uint8), "labels": LABELS}, "have no pixels"),
    "images are 0 to 255 in int64": ({"images": GREY.astype(int), "labels": LABELS}, "are int64"),
    "floats run to 255": ({"images": GREY.astype(float), "labels": LABELS}, "between 0 and 1; found 0 to 255"),
    "floats are normalised": ({"images": GREY / 255 - 0.5, "labels": LABELS}, "between 0 and 1"),
    "floats are not numbers": ({"images": np.where(GREY > 9, np.nan, 0.5), "labels": LABELS}, "between 0 and 1"),
    "splits of two sizes": (
        {**X, "x_test": GREY[:, :5], "y_test": LABELS},
        "splits differ in channels, height or width",
    ),
    "a class in the test alone": ({**X, "x_test": GREY, "y_test": LABELS + 1}, "the labels 4 occur outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_the_files_name_and_a_way_to_mend_it(tmp_path: Path, fault: str) -> None:
    arrays, says = FAULTS[fault]
    with pytest.raises(UnreadableData, match=says) as caught:
        read(tmp_path, **arrays)
    assert "set.npz" in caught.value.detail
    assert caught.value.hint
    assert caught.value.pointer == "/dataset/path"


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=GREY, labels=LABELS)
    return buffer.getvalue()


def lying_header() -> bytes:
    """An archive of a few bytes whose header promises a terabyte of images."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        with archive.open("images.npy", "w") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (2**40,)})
        with archive.open("labels.npy", "w") as stream:
            np.lib.format.write_array(stream, LABELS)
    return buffer.getvalue()


def single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, GREY)
    return buffer.getvalue()


DAMAGES = {
    "cut in half": archive_bytes()[: len(archive_bytes()) // 2],
    "empty": b"",
    "a flipped byte": archive_bytes().replace(GREY[20].tobytes(), bytes(36)),
    "a single array": single_array(),
    "a pickle": pickle.dumps([1, 2, 3]),
    "a header that lies": lying_header(),
    "text": b"images,labels\n1,2\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_told(tmp_path: Path, damage: str) -> None:
    (tmp_path / "set.npz").write_bytes(DAMAGES[damage])
    with pytest.raises(UnreadableData, match=r"set\.npz' is not a sound NumPy archive"):
        load(NpzData(path=str(tmp_path / "set.npz")))


def test_an_archive_larger_than_the_memory_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = {"images": np.zeros((4, 2000, 2000), np.uint8), "labels": np.arange(4) % 2}
    np.savez_compressed(tmp_path / "set.npz", **bomb)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.data.memory.available_bytes", lambda: 10_000_000)
        with pytest.raises(UnreadableData, match=r"set\.npz' needs 0\.01 GiB in memory"):
            load(NpzData(path=str(tmp_path / "set.npz")))


@pytest.mark.parametrize(("name", "found"), [("absent.npz", "nothing"), (".", "a folder")])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(UnreadableData, match=f"expected a file, found {found}"):
        load(NpzData(path=str(tmp_path / name)))
