"""Arrays in idx files and NumPy archives have the values that the plain readers give; splits are drawn as they do."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.spec.dataset import NpzData, StoredData
from distillery.spec.imports import DatasetImport
from distillery.views import DatasetFacts
from engine.data import idx, splits
from engine.data.packed import Packed, open_packed
from engine.data.readers import load
from engine.intake import splits as intake_splits
from engine.intake.reading import PACKED, read
from engine.intake.sources import Given

_RANDOM = np.random.default_rng(3)
_GREY = _RANDOM.integers(0, 256, (60, 6, 5), dtype=np.uint8)
_COLOUR = _RANDOM.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
_LABELS = np.arange(60) % 3


def imported(tmp_path: Path, *paths: Path, **fields: object) -> tuple[DatasetFacts, Packed]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    spec = DatasetImport(name="x", path="x", **fields)  # type: ignore[arg-type]  # varied by the tests
    facts = read(spec, given=[Given(path, path.name) for path in paths], out=out)
    return facts, open_packed(out / PACKED)


@pytest.mark.parametrize("form", ["files", "zip", "folder"])
def test_fashion_mnist_has_the_values_of_the_plain_reader(
    tmp_path: Path, data_root: Callable[[str], Path], form: str
) -> None:
    root = data_root("fashion-mnist")
    files = sorted(root.glob("t10k*.gz"))
    given = files
    if form == "zip":
        given = [tmp_path / "fashion.zip"]
        with zipfile.ZipFile(given[0], "w") as archive:
            for file in files:
                archive.write(file, f"fashion/{file.name}")
    elif form == "folder":
        (tmp_path / "fashion").mkdir()
        for file in files:
            (tmp_path / "fashion" / file.name).write_bytes(file.read_bytes())
        given = [tmp_path / "fashion"]
    facts, packed = imported(tmp_path, *given)
    images, labels = (idx.values(file, dimensions=each) for file, each in zip(files, (3, 1), strict=True))
    assert (facts.format, facts.channels, sum(facts.splits.values())) == ("idx", 1, 10_000)
    assert np.array_equal(packed.images()[:, 0], images.numpy())
    assert np.array_equal(packed.labels, labels.numpy())


def test_idx_files_are_paired_by_their_counts_where_names_say_nothing(tmp_path: Path) -> None:
    for name, count in (("one", 40), ("two", 20)):
        (tmp_path / f"{name}.images").write_bytes(
            b"\0\0\x08\x03" + np.array([count, 6, 5], ">u4").tobytes() + _GREY[:count].tobytes()
        )
        (tmp_path / f"{name}.labels").write_bytes(
            b"\0\0\x08\x01" + np.array([count], ">u4").tobytes() + _LABELS[:count].astype("u1").tobytes()
        )
    facts, _ = imported(tmp_path, *sorted(tmp_path.glob("*.*s")), classes=("a", "b", "c"))
    assert (facts.splits["test"], facts.classes) == (20, ("a", "b", "c"))


def _arrays(kind: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    chw = _COLOUR.transpose(0, 3, 1, 2)
    return {
        "grey": ({"images": _GREY, "labels": _LABELS}, _GREY[:, None]),
        "channels last": ({"images": _COLOUR, "labels": _LABELS}, chw),
        "channels first": ({"images": np.ascontiguousarray(chw), "labels": _LABELS.astype("u1")}, chw),
        "fractions": ({"images": (_COLOUR / 255).astype(np.float32), "labels": _LABELS}, chw),
        "column by column": ({"images": np.asfortranarray(_COLOUR), "labels": _LABELS[:, None]}, chw),
        "splits": (
            {"x_train": _GREY[:40], "y_train": _LABELS[:40], "x_test": _GREY[40:], "y_test": _LABELS[40:]},
            _GREY[:, None],
        ),
    }[kind]


@pytest.mark.parametrize("kind", ["grey", "channels last", "channels first", "fractions", "column by column", "splits"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_numpy_archive_is_read_in_every_form(tmp_path: Path, kind: str, save: Callable[..., None]) -> None:
    arrays, expected = _arrays(kind)
    save(tmp_path / "a.npz", **arrays)
    facts, packed = imported(tmp_path, tmp_path / "a.npz")
    assert facts.format == "npz"
    assert np.array_equal(packed.images(), expected)
    assert np.array_equal(packed.labels, _LABELS)


def test_splits_are_drawn_as_the_plain_reader_draws_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=_GREY, labels=_LABELS)
    for seed in (0, 7, 2**32 - 1):
        _, packed = imported(tmp_path, tmp_path / "a.npz", split_seed=seed, test=0.3, validation=0.25)
        plain = load(NpzData(path=str(tmp_path / "a.npz"), split_seed=seed, test=0.3, validation=0.25, image_size=5))
        for name in ("train", "validation", "test"):
            assert packed.rows(name).tolist() == getattr(plain, name).ids.tolist()


@pytest.mark.parametrize("classes", [1, 2, 7, 40])
def test_the_rule_of_the_splits_is_that_of_the_engine(classes: int) -> None:
    for seed in range(6):
        labels = np.random.default_rng(seed).integers(0, classes, 100) * (1 + seed % 2)
        for purpose, share in (("test", 0.2), ("validation", 0.1), ("test", 0.89), ("validation", 0.005)):
            _, back = splits.held_out(torch.from_numpy(labels), share=share, seed=seed, purpose=purpose)
            drawn = intake_splits.held_out(labels, share=share, seed=seed, purpose=purpose)
            assert drawn.tolist() == back.tolist()


def test_what_was_packed_can_be_trained_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=_GREY, labels=_LABELS)
    facts, packed = imported(tmp_path, tmp_path / "a.npz", short_side=8)
    stored = load(StoredData(id="dts_" + "0" * 26, image_size=5), stored=tmp_path / "out" / PACKED)
    assert stored.classes == facts.classes
    assert len(stored.train) == facts.splits["train"] == len(packed.rows("train"))


def test_the_reader_of_strangers_files_starts_without_torch() -> None:
    code = (
        "import sys, worker.ingest, engine.intake.reading, engine.intake.previews, engine.intake.parquet, "
        "engine.intake.table_images, engine.intake.shaping; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
