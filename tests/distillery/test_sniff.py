"""Files are told by their content: pickles of every protocol, programs, archives with something before them."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.sniff import KINDS, advice, describe, sniff, sniff_file


class Calling:
    """Calls something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("called",))


def zipped(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return held.getvalue()


def picture(kind: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (4, 4)).save(held, kind)
    return held.getvalue()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "content",
    [
        Calling(),
        {"weights": [1.5, 2.5]},
        list(range(40_000)),
        {str(number): np.zeros(3) for number in range(2_000)},
        "text",
    ],
    ids=["calling", "dict", "long", "longer-than-the-head", "text"],
)
def test_pickles_of_every_protocol_are_told(protocol: int, content: object) -> None:
    assert sniff(pickle.dumps(content, protocol)) == "pickle"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_pickle_is_a_pickle(compress: Callable[[bytes], bytes]) -> None:
    assert sniff(compress(pickle.dumps({"a": [1, 2]}))) == "pickle"
    assert sniff(compress(b"text,label\n" * 100)) in ("gzip", "bzip2", "xz")


def test_joblib_files_are_told_plain_and_compressed() -> None:
    from joblib import dump

    plain, packed = io.BytesIO(), io.BytesIO()
    dump({"weights": np.arange(5)}, plain)
    dump({"weights": np.arange(5)}, packed, compress=("zlib", 3))
    assert sniff(plain.getvalue()) == sniff(packed.getvalue()) == "joblib"
    assert sniff(zlib.compress(b"no pickle at all" * 9)) == "unknown"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model/data.pkl", "model/version", "model/data/0"], "torch_zip"),
        (["model/data.pkl", "model/code/__torch__.py", "model/constants.pkl"], "torchscript"),
        (["data.pkl", "constants.pkl"], "torchscript"),
        (["program/archive_format", "program/models/model.json"], "torch_export"),
        (["serialized_exported_program.json", "version"], "torch_export"),
        (["package/.data/extern_modules", "package/model.pkl"], "torch_package"),
        (["MAR-INF/MANIFEST.json", "model.pt"], "torch_archive"),
        (["config.json", "metadata.json", "model.weights.h5"], "keras"),
        (["META-INF/MANIFEST.MF", "A.class"], "jar"),
        (["x_train.npy", "y_train.npy"], "npz"),
        (["train/cat/1.png"], "zip"),
    ],
)
def test_what_a_zip_is_is_told_by_the_names_inside(tmp_path: Path, names: list[str], kind: str) -> None:
    content = zipped(*names)
    assert sniff(content, names=names) == kind
    file = tmp_path / "innocent.png"
    file.write_bytes(content)
    assert sniff_file(file) == kind


@pytest.mark.parametrize("before", [picture("PNG"), b"\x7fELF" + bytes(60), b"#!/bin/sh\nexit\n", bytes(100)])
def test_a_zip_behind_something_else_is_a_polyglot(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "moved").write_bytes(before + zipped("a/data.pkl"))
    with zipfile.ZipFile(tmp_path / "mended", "w") as archive:
        archive.writestr("a/data.pkl", b"content")
    with (tmp_path / "fitting").open("wb") as file:
        file.write(before)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("a/data.pkl", b"content")
    assert sniff_file(tmp_path / "moved") == sniff_file(tmp_path / "fitting") == "polyglot"
    assert sniff_file(tmp_path / "mended") == "torch_zip"
    assert sniff(before, names=["a/data.pkl"]) == "polyglot"


def test_a_real_torch_file_of_each_age_is_told(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    assert sniff(held.getvalue()) == "torch_tar"
    legacy = b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"weight": [1.0]})
    )
    assert sniff(legacy) == "torch_legacy"


def test_images_and_data_are_told() -> None:
    assert [sniff(picture(kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")] == [
        "png", "jpeg", "webp", "gif", "tiff", "bmp",
    ]  # fmt: skip
    assert sniff(b"\0\0\x08\x03" + struct.pack(">III", 10, 28, 28)) == "idx"
    assert sniff(struct.pack("<Q", 2**64 - 1) + b'{"a":1}') == sniff(struct.pack("<Q", 2) + b"{}") == "safetensors"
    assert sniff(b"PAR1" + bytes(20)) == "parquet"


def test_arrays_of_objects_are_told_from_arrays_of_numbers() -> None:
    numbers, objects = io.BytesIO(), io.BytesIO()
    np.save(numbers, np.arange(3))
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    assert (sniff(numbers.getvalue()), sniff(objects.getvalue())) == ("npy", "npy_pickled")


def test_an_onnx_model_is_told_from_other_bytes(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(helper.make_model(graph), tmp_path / "m.png")
    assert sniff_file(tmp_path / "m.png") == "onnx"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("text,label\nfine,1\n", "csv"),
        ("\ufefftext;label\nfine;1\n", "csv"),
        ("text\tlabel\nfine, really\t1\n", "tsv"),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', "jsonl"),
        ('{\n "a": 1\n}', "json"),
        ("[1, 2]", "json"),
        ("Value for money\nVery good\n", "text"),
        ("(I think)\nNo, really\n", "text"),
        ("<!DOCTYPE html><html>", "html"),
        ("version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
        ("#!/bin/sh\n", "script"),
        ("", "empty"),
    ],
)
def test_text_is_told_by_its_first_line(text: str, kind: str) -> None:
    assert sniff(text.encode()) == kind


def test_real_data_and_weights_are_told(data_root: Callable[[str], Path]) -> None:
    cifar = data_root("cifar10")
    weights = next(data_root("cifar10-resnet-weights").glob("*.th"))
    assert sniff_file(cifar / "cifar10_test.zip") == "zip"
    assert sniff_file(weights) == "torch_legacy"
    assert "distillery models convert" in advice("torch_legacy")
    assert sniff_file(data_root("sst2") / "train.csv") == "csv"


def test_every_kind_is_described() -> None:
    assert all(describe(kind) for kind in KINDS)
    assert all(advice(kind) for kind in ("pickle", "torch_zip", "hdf5", "elf", "7z", "gif"))


def test_random_bytes_never_raise() -> None:
    random = np.random.default_rng(0)
    heads = [
        b"",
        b"x",
        b"\x80\x04",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"BZh9",
        b"\x78\x9c",
        b"\x08\x07",
        b"(",
    ]
    for number in range(500):
        content = heads[number % len(heads)] + random.bytes(int(random.integers(0, 300)))
        assert sniff(content) in KINDS
