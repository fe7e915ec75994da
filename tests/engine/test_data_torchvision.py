"""torchvision's files: held against the checksums that torchvision records, and never unpickled before that.

The data sets themselves may not be had here, so small files in their very formats stand in, and torchvision is told
their checksums; reading, checking and unpickling are the real ones.
"""

import gzip
import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from distillery.errors import UnreadableData
from distillery.spec.dataset import TorchvisionData
from engine.data.dataset import Dataset
from engine.data.readers import load

NAMES = [f"class {number}" for number in range(10)]


def images(count: int, *, seed: int = 0, shape: tuple[int, ...] = (3, 32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def python2_pickle(content: dict[str, Any]) -> bytes:
    """`content` in protocol 2 as Python 2 wrote it: byte strings without encoding, 0 and 1 for booleans."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def item(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            kind = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
            kind += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
            state = b"(" + number(1) + b"(" + b"".join(map(number, value.shape)) + b"t" + kind + b"\x89"
            made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
            return made + state + text(value.tobytes()) + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        return number(value) if isinstance(value, int) else text(value.encode())

    return b"\x80\x02}(" + b"".join(text(key.encode()) + item(value) for key, value in content.items()) + b"u."


def place(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write `files` and give their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}


def cifar(root: Path, patch: pytest.MonkeyPatch, *, name: str = "CIFAR10") -> TorchvisionData:
    known = getattr(datasets, name)
    training = [file for file, _ in known.train_list]
    testing = [file for file, _ in known.test_list]
    label_key, classes = ("labels", 10) if name == "CIFAR10" else ("fine_labels", 100)
    files = {}
    for number, file in enumerate([*training, *testing]):
        labels = [row % classes for row in range(200)]
        files[file] = python2_pickle({"data": images(200, seed=number).reshape(200, -1), label_key: labels})
    names = [f"class {number}" for number in range(classes)]
    files[known.meta["filename"]] = python2_pickle({known.meta["key"]: names})
    sums = place(root / known.base_folder, files)
    patch.setattr(known, "train_list", [(file, sums[file]) for file in training])
    patch.setattr(known, "test_list", [(file, sums[file]) for file in testing])
    patch.setattr(known, "meta", {**known.meta, "md5": sums[known.meta["filename"]]})
    return TorchvisionData(name=name, root=str(root))  # type: ignore[arg-type]  # one of the two names


@pytest.mark.parametrize(("name", "files"), [("CIFAR10", 5), ("CIFAR100", 1)])
def test_cifar_is_read_from_its_python_2_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: int
) -> None:
    dataset = load(cifar(tmp_path, monkeypatch, name=name))
    assert dataset.name == name
    assert dataset.classes[3] == "class 3"
    assert len(dataset.train) + len(dataset.validation) == 200 * files
    assert np.array_equal(dataset.test.images.numpy(), images(200, seed=files))
    every = np.concatenate([images(200, seed=number) for number in range(files)])
    assert np.array_equal(dataset.train.images.numpy(), every[dataset.train.ids.numpy()])
    assert torch.equal(dataset.train.labels, dataset.train.ids % 200 % len(dataset.classes))


def test_the_stand_in_is_what_torchvision_reads_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = cifar(tmp_path, monkeypatch)
    theirs = datasets.CIFAR10(str(tmp_path), train=False, download=False)
    ours = load(spec)
    assert np.array_equal(ours.test.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert ours.test.labels.tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.file, "code was run"))


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_of_another_checksum_is_refused_without_being_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    spec = cifar(tmp_path, monkeypatch)
    sprung = tmp_path / "sprung"
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(UnreadableData, match=f"{file}' is not the file that torchvision knows.*not opened") as caught:
        load(spec)
    assert not sprung.exists()
    assert caught.value.pointer == "/dataset/root"


def test_even_with_the_right_checksum_nothing_but_arrays_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = cifar(tmp_path, monkeypatch)
    sprung = tmp_path / "sprung"
    sums = place(tmp_path / "cifar-10-batches-py", {"test_batch": pickle.dumps(Trap(sprung))})
    monkeypatch.setattr(datasets.CIFAR10, "test_list", list(sums.items()))
    with pytest.raises(UnreadableData, match=r"asks for 'pathlib\.Path\.write_text', which is not an array"):
        load(spec)
    assert not sprung.exists()


def test_a_missing_file_is_named_and_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(UnreadableData, match="data_batch_2' cannot be read: No such file") as caught:
        load(spec)
    assert "nothing is downloaded" in caught.value.hint


def test_the_real_checksums_are_asked_for(tmp_path: Path) -> None:
    place(tmp_path / "cifar-10-batches-py", {"batches.meta": python2_pickle({"label_names": NAMES})})
    with pytest.raises(UnreadableData, match="expected MD5 5ff9c542aee3614f3951f8cda6e48888"):
        load(TorchvisionData(name="CIFAR10", root=str(tmp_path)))


def idx_file(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "first"), [("MNIST", "0"), ("KMNIST", "o"), ("FashionMNIST", "T-shirt/top")])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_mnist_family_is_read_from_its_raw_folder(tmp_path: Path, name: str, first: str, suffix: str) -> None:
    files = {}
    for prefix, count in (("train", 100), ("t10k", 20)):
        files[f"{prefix}-images-idx3-ubyte{suffix}"] = idx_file(images(count, shape=(28, 28)))
        files[f"{prefix}-labels-idx1-ubyte{suffix}"] = idx_file((np.arange(count) % 10).astype(np.uint8))
    place(tmp_path / name / "raw", {k: gzip.compress(v) if suffix else v for k, v in files.items()})
    dataset = load(TorchvisionData(name=name, root=str(tmp_path)))  # type: ignore[arg-type]  # one of the names
    assert (dataset.name, dataset.classes[0], len(dataset.test)) == (name, first, 20)


def test_a_missing_raw_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableData, match=r"MNIST/raw': expected the folder"):
        load(TorchvisionData(name="MNIST", root=str(tmp_path)))


def test_stl10_is_turned_upright_and_counted_from_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for split, count in (("train", 40), ("test", 20)):
        files[f"{split}_X.bin"] = images(count, shape=(3, 96, 96)).transpose(0, 1, 3, 2).tobytes()
        files[f"{split}_y.bin"] = (np.arange(count) % 10 + 1).astype(np.uint8).tobytes()
    sums = place(tmp_path / "stl10_binary", files)
    for listed in ("train", "test"):
        monkeypatch.setattr(datasets.STL10, f"{listed}_list", [(k, v) for k, v in sums.items() if k.startswith(listed)])
    dataset: Dataset = load(TorchvisionData(name="STL10", root=str(tmp_path)))
    assert np.array_equal(dataset.test.images.numpy(), images(20, shape=(3, 96, 96)))
    assert dataset.test.labels.tolist() == [row % 10 for row in range(20)]


def test_svhn_calls_the_digit_zero_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    listed = {}
    for split, count in (("train", 60), ("test", 20)):
        buffer = io.BytesIO()
        savemat(buffer, {"X": images(count).transpose(2, 3, 1, 0), "y": (np.arange(count) % 10 + 1).reshape(-1, 1)})
        for file, md5 in place(tmp_path, {f"{split}_32x32.mat": buffer.getvalue()}).items():
            listed[split] = ["", file, md5]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    dataset = load(TorchvisionData(name="SVHN", root=str(tmp_path)))
    assert np.array_equal(dataset.test.images.numpy(), images(20))
    assert dataset.test.labels.tolist() == [(row % 10 + 1) % 10 for row in range(20)]
