"""Texts and images in tables, real and written here: columns found, labels numbered, splits recognised."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from distillery.errors import UnreadableData
from distillery.spec.imports import DatasetImport
from distillery.views import DatasetFacts
from engine.data.packed import Packed, open_packed
from engine.intake.reading import PACKED, read
from engine.intake.sources import Given

_LABELS = [number % 2 for number in range(20)]
_TEXTS = [f"text number {number}" for number in range(20)]
_PIXELS = np.random.default_rng(1).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


def imported(tmp_path: Path, *paths: Path, **fields: object) -> tuple[DatasetFacts, Packed]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    spec = DatasetImport(name="x", path="x", **fields)  # type: ignore[arg-type]  # varied by the tests
    facts = read(spec, given=[Given(path, path.name) for path in paths], out=out)
    return facts, open_packed(out / PACKED)


def csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", "utf-8")
    return path


def tabled(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def png(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(_PIXELS[number]).save(held, "PNG")
    return held.getvalue()


def test_sst2_is_read_from_its_three_files(tmp_path: Path, data_root: Callable[[str], Path]) -> None:
    root = data_root("sst2")
    facts, packed = imported(tmp_path, *(root / f"{name}.csv" for name in ("dev", "test", "train")))
    assert facts.splits == {"train": 6920, "validation": 872, "test": 1821, "unlabelled": 0}
    assert (facts.task, facts.format, facts.classes) == ("text-classification", "csv", ("negative", "positive"))
    assert packed.text(0).startswith("a stirring , funny and finally transporting")
    assert (packed.name(0), packed.labels[0]) == ("train.csv, line 2", 1)
    assert imported(tmp_path, root)[0].splits == facts.splits


def test_ag_news_is_read_and_its_validation_split_drawn(tmp_path: Path, data_root: Callable[[str], Path]) -> None:
    root = data_root("ag-news")
    facts, _ = imported(tmp_path, root / "train_12000.csv", root / "test.csv")
    assert facts.splits == {"train": 10_800, "validation": 1_200, "test": 7_600, "unlabelled": 0}
    assert facts.classes == ("Business", "Sci/Tech", "Sports", "World")


def test_titles_go_before_their_texts_and_numbers_get_names(tmp_path: Path) -> None:
    rows = [f'{number % 4 + 1},"Title {number}","A ""body"", {number}"' for number in range(40)]
    path = csv(tmp_path / "news.csv", "Class Index,Title,Description", *rows)
    facts, packed = imported(tmp_path, path, classes=("World", "Sports", "Business", "Sci/Tech"))
    assert packed.text(0) == 'Title 0 A "body", 0'
    assert facts.classes[packed.labels[1]] == "Sports"
    assert any("joined by a space" in note for note in facts.notes)
    assert any("count from 1" in note for note in facts.notes)
    assert imported(tmp_path, path)[0].classes == ("1", "2", "3", "4")


@pytest.mark.parametrize(("separator", "ending"), [("\t", "tsv"), (";", "csv"), (",", "csv")])
def test_every_separator_and_a_byte_order_mark_are_read(tmp_path: Path, separator: str, ending: str) -> None:
    path = tmp_path / f"table.{ending}"
    rows = [
        f"{text}, really{separator}{label}" if separator != "," else f"{text},{label}"
        for text, label in zip(_TEXTS, _LABELS, strict=True)
    ]
    path.write_text("\ufeff" + "\n".join((f"sentence{separator}label", *rows)), "utf-8")
    assert sum(imported(tmp_path, path)[0].splits.values()) == 20


def test_columns_are_taken_as_told_and_named_when_missing(tmp_path: Path) -> None:
    rows = [f"{text},{label},other" for text, label in zip(_TEXTS, _LABELS, strict=True)]
    path = csv(tmp_path / "a.csv", "what,kind,text", *rows)
    facts, packed = imported(tmp_path, path, columns={"text": "what", "label": "kind"})
    assert packed.text(3) == "text number 3" and facts.classes == ("0", "1")
    with pytest.raises(UnreadableData, match="found 'what', 'kind', 'text'") as caught:
        imported(tmp_path, path)
    assert caught.value.pointer == "/columns/label"
    with pytest.raises(UnreadableData, match="no column 'nothing'"):
        imported(tmp_path, path, columns={"text": "nothing", "label": "kind"})


def test_a_column_of_splits_is_followed(tmp_path: Path) -> None:
    splits = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    rows = [f"{text},{label},{split}" for text, label, split in zip(_TEXTS, _LABELS, splits, strict=True)]
    facts, _ = imported(tmp_path, csv(tmp_path / "a.csv", "text,label,split", *rows))
    assert facts.splits == {"train": 12, "validation": 4, "test": 4, "unlabelled": 0}
    assert facts.notes == ()


def test_rows_without_a_label_are_unlabelled_and_broken_rows_listed(tmp_path: Path) -> None:
    rows = [f"{text},{label}" for text, label in zip(_TEXTS, _LABELS, strict=True)]
    path = csv(tmp_path / "a.csv", "text,label", *rows, "no label,", "one,two,three", " ,1")
    facts, _ = imported(tmp_path, path, on_error="skip")
    assert facts.splits["unlabelled"] == 1
    assert [(each.member, each.reason) for each in facts.broken] == [
        ("a.csv, line 23", "has 3 columns where the header has 2"),
        ("a.csv, line 24", "has no text"),
    ]
    with pytest.raises(UnreadableData, match=r"'a.csv, line 23': has 3 columns .*1 more is broken"):
        imported(tmp_path, path)


def test_what_is_shown_is_cleaned_and_what_is_learnt_is_kept(tmp_path: Path) -> None:
    labels = ("b\u202dad", "good")
    rows = [f"{text}\u202e,{labels[label]}" for text, label in zip(_TEXTS, _LABELS, strict=True)]
    facts, packed = imported(tmp_path, csv(tmp_path / "a.csv", "text,label", *rows))
    assert facts.classes == ("bad", "good")
    assert packed.text(0) == "text number 0\u202e"


def test_lines_of_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        {"sentence": text, "label": "yes" if label else "no", "id": 5}
        for text, label in zip(_TEXTS, _LABELS, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    facts, packed = imported(tmp_path, path)
    assert (facts.format, facts.classes, packed.text(1)) == ("jsonl", ("no", "yes"), "text number 1")


def test_parquet_holds_texts_in_files_named_after_their_splits(tmp_path: Path) -> None:
    paths = [
        tabled(tmp_path / f"{split}-00000-of-00001.parquet", {"text": _TEXTS, "label": _LABELS}, row_group_size=7)
        for split in ("train", "validation", "test")
    ]
    facts, packed = imported(tmp_path, *paths)
    assert facts.splits == {"train": 20, "validation": 20, "test": 20, "unlabelled": 0}
    assert (packed.text(19), packed.name(19)) == ("text number 19", "train-00000-of-00001.parquet, row 19")


def _hugging_face(path: Path) -> Path:
    """Images and names of classes as the library `datasets` writes them."""
    features = {"label": {"names": ["zebra", "cat"], "_type": "ClassLabel"}}
    image = pa.array([{"bytes": png(number), "path": f"{number}.png"} for number in range(20)])
    table = pa.table({"image": image, "label": _LABELS})
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    parquet.write_table(table, path)
    return path


def test_parquet_of_hugging_face_keeps_pixels_and_names_of_classes(tmp_path: Path) -> None:
    facts, packed = imported(tmp_path, _hugging_face(tmp_path / "data.parquet"))
    assert (facts.classes, facts.channels, facts.height) == (("zebra", "cat"), 3, 6)
    assert all(np.array_equal(packed.image(row), _PIXELS[row].transpose(2, 0, 1)) for row in range(20))
    assert packed.labels.tolist() == _LABELS


@pytest.mark.parametrize("kind", ["bytes", "flat", "nested", "fractions"])
def test_parquet_holds_images_in_every_form(tmp_path: Path, kind: str) -> None:
    grey = _PIXELS[..., 0]
    column = {
        "bytes": pa.array([png(number) for number in range(20)]),
        "flat": pa.FixedSizeListArray.from_arrays(pa.array(grey.reshape(-1)), 36),
        "nested": pa.array(_PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))),
        "fractions": pa.array((grey / 255).astype(np.float32).tolist()),
    }[kind]
    _, packed = imported(tmp_path, tabled(tmp_path / "a.parquet", {"image": column, "label": _LABELS}))
    coloured = kind in ("bytes", "nested")
    expected = _PIXELS.transpose(0, 3, 1, 2) if coloured else grey[:, None]
    assert np.array_equal(packed.images(), expected)


def test_labels_of_minus_one_are_none(tmp_path: Path) -> None:
    train = tabled(tmp_path / "train.parquet", {"text": _TEXTS, "label": _LABELS})
    test = tabled(tmp_path / "test.parquet", {"text": _TEXTS, "label": [-1] * 20})
    facts, _ = imported(tmp_path, train, test)
    assert facts.splits["unlabelled"] == 20
