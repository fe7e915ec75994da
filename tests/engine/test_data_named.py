"""Data by name, the folders that may be read, and packages and memory that may be missing."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from distillery.errors import MissingDependency, UnknownName, UnreadableData
from distillery.spec.dataset import DigitsData, IdxData, ImageFolderData, NamedData, NpzData
from engine.data import memory
from engine.data.named import recognise
from engine.data.readers import load

LABELS = np.arange(40) % 2
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)


class DataRoot(Protocol):
    def __call__(self, name: str) -> Path: ...


def npz_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "anything.npz", images=IMAGES, labels=LABELS)
    return folder


def idx_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS.astype(np.uint8))):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


def class_folders(folder: Path) -> Path:
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(IMAGES[number]).save(folder / name / f"{number}.png")
    return folder


def test_digits_need_no_folder_and_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLERY_DATA", raising=False)
    by_name, by_kind = load(NamedData(name="digits")), load(DigitsData())
    assert by_name.sha256 == by_kind.sha256
    assert (by_kind.name, by_kind.channels, by_kind.image_size) == ("digits", 1, 8)
    assert by_kind.classes == tuple("0123456789")
    assert [len(split) for split in (by_kind.train, by_kind.validation, by_kind.test)] == [1293, 145, 359]
    assert int(by_kind.train.images.max()) == 255
    assert set(by_kind.train.images.unique().tolist()) == {(level * 255 + 8) // 16 for level in range(17)}


def test_digits_say_what_to_install_when_scikit_learn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as the import system marks what cannot be imported
    with pytest.raises(MissingDependency, match="pip install scikit-learn"):
        load(DigitsData())


def test_importing_the_readers_imports_no_optional_package() -> None:
    script = (
        "import sys, engine.data.readers, engine.evaluate, engine.preflight\n"
        "print([name for name in ('PIL', 'sklearn', 'scipy', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (npz_folder, NpzData),
        (idx_folder, IdxData),
        (class_folders, ImageFolderData),
        (lambda folder: class_folders(folder / "train").parent, ImageFolderData),
    ],
)
def test_the_format_of_a_folder_is_recognised_from_its_files(tmp_path: Path, make, kind: type) -> None:  # type: ignore[no-untyped-def]  # parametrised
    make(tmp_path / "pets")
    asked = NamedData(name="pets", image_size=5, validation=0.25, split_seed=3, augment=("flip",))
    found = recognise(asked, data_root=tmp_path)
    assert type(found) is kind
    assert (found.image_size, found.validation, found.split_seed, found.augment) == (5, 0.25, 3, ("flip",))
    dataset = load(asked, data_root=tmp_path)
    assert (dataset.name, dataset.image_size, len(dataset.classes)) == ("pets", 5, 2)


def test_the_data_root_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz_folder(tmp_path / "pets")
    monkeypatch.setenv("DISTILLERY_DATA", str(tmp_path))
    assert load(NamedData(name="pets")).name == "pets"


def test_real_folders_are_recognised(data_root: DataRoot) -> None:
    root = data_root("fashion-mnist").parent
    assert isinstance(recognise(NamedData(name="fashion-mnist"), data_root=root), IdxData)


def test_archives_that_are_not_unpacked_are_told(data_root: DataRoot) -> None:
    with pytest.raises(UnreadableData, match=r"not recognised; found .*cifar10_test\.zip.*Unpack archives"):
        load(NamedData(name="cifar10"), data_root=data_root("cifar10").parent)


def test_an_unknown_name_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    npz_folder(tmp_path / "fashion")
    with pytest.raises(UnknownName, match="Did you mean 'fashion'") as caught:
        load(NamedData(name="fashoin"), data_root=tmp_path)
    assert caught.value.pointer == "/dataset/name"


def test_without_a_data_root_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLERY_DATA", raising=False)
    with pytest.raises(UnreadableData, match=r"\$DISTILLERY_DATA") as caught:
        load(NamedData(name="pets"))
    assert caught.value.pointer == "/dataset/name"


@pytest.mark.parametrize("content", ["nothing", "two archives", "archive and folder", "a table"])
def test_a_folder_of_no_known_format_is_told_with_what_it_holds(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "pets"
    if content == "nothing":
        folder.mkdir()
    else:
        npz_folder(folder)
    if content == "two archives":
        np.savez(folder / "more.npz", images=IMAGES)
    if content == "archive and folder":
        class_folders(folder)
    if content == "a table":
        (folder / "anything.npz").rename(folder / "table.csv")
    with pytest.raises(UnreadableData, match="the format is not recognised; found") as caught:
        load(NamedData(name="pets"), data_root=tmp_path)
    assert all(entry.name in caught.value.detail for entry in folder.iterdir())


def test_a_link_out_of_the_data_root_is_not_followed(tmp_path: Path) -> None:
    npz_folder(tmp_path / "outside" / "pets")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "pets").symlink_to(tmp_path / "outside" / "pets")
    with pytest.raises(UnreadableData, match="leads out of the data root"):
        load(NamedData(name="pets"), data_root=tmp_path / "root")


@pytest.mark.parametrize("way", ["plain", "dots", "link"])
@pytest.mark.parametrize("kind", [NpzData, IdxData, ImageFolderData])
def test_paths_outside_the_allowed_roots_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, kind: type
) -> None:
    npz_folder(tmp_path / "secret")
    allowed = [tmp_path / "one", tmp_path / "two"]
    for folder in allowed:
        folder.mkdir()
    (tmp_path / "one" / "link").symlink_to(tmp_path / "secret")
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", os.pathsep.join(map(str, allowed)))
    path = {"plain": "secret", "dots": "one/../secret", "link": "one/link"}[way]
    with pytest.raises(UnreadableData, match="outside the folders") as caught:
        load(kind(path=str(tmp_path / path)))
    assert "anything.npz" not in str(caught.value), "nothing is told about what lies there"


def test_paths_below_any_of_the_allowed_roots_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz_folder(tmp_path / "two" / "pets")
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    assert len(load(NpzData(path=str(tmp_path / "two" / "pets" / "anything.npz"))).classes) == 2


def test_named_data_lies_below_the_data_root_whatever_the_other_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz_folder(tmp_path / "data" / "pets")
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", str(tmp_path / "elsewhere"))
    assert load(NamedData(name="pets"), data_root=tmp_path / "data").name == "pets"


def test_moving_the_data_changes_no_hash(tmp_path: Path) -> None:
    one, two = npz_folder(tmp_path / "a"), npz_folder(tmp_path / "b" / "c")
    hashes = {load(NpzData(path=str(folder / "anything.npz"))).sha256 for folder in (one, two)}
    assert len(hashes) == 1


def test_the_memory_left_is_the_lesser_of_machine_and_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    assert memory.available_bytes(meminfo=meminfo, cgroup=tmp_path) == 500 * 1024
    for name, content in (("max", "300000"), ("current", "200000"), ("stat", "anon 5\ninactive_file 50000\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory.available_bytes(meminfo=meminfo, cgroup=tmp_path) == 150_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes(meminfo=meminfo, cgroup=tmp_path) == 500 * 1024
    assert memory.available_bytes(meminfo=tmp_path / "absent", cgroup=tmp_path / "absent") is None


def test_a_size_that_does_not_fit_into_memory_is_refused_before_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.memory.available_bytes", lambda: 100_000_000)
    with pytest.raises(UnreadableData, match=r"'digits' at 512x512 pixels needs 0\.44 GiB"):
        load(DigitsData(image_size=512))
