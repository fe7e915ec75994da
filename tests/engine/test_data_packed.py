"""The packed form: what is written comes back, equal contents give equal bytes, damage is told."""

import hashlib

import numpy as np
import pytest

from distillery.errors import UnreadableData
from engine.data.packed import PackedWriter, open_packed
from tests.packing import pack


def pictures(count, *, size=(5, 7), channels=3, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, channels, *size), dtype=np.uint8))


def written(path, **changes):
    facts = {"labels": [0, 1, 0, -1], "splits": ["train", "test", "validation", "unlabelled"]} | changes
    return pack(path, facts.pop("images", pictures(4)), **facts)


def test_what_is_written_comes_back(tmp_path):
    packed = open_packed(written(tmp_path / "x.dstl", names=["a/é.png", "b", "c", "d"], notes=["One was left out."]))
    assert (packed.head.count, packed.head.channels, packed.head.height, packed.head.width) == (4, 3, 5, 7)
    assert packed.head.classes == ("a", "b") and packed.head.notes == ("One was left out.",)
    assert packed.labels.tolist() == [0, 1, 0, -1]
    assert [packed.rows(split).tolist() for split in ("train", "test", "unlabelled")] == [[0], [1], [3]]
    assert packed.name(0) == "a/é.png" and packed.name(3) == "d"
    assert np.array_equal(packed.images(), np.stack(pictures(4)))
    assert np.array_equal(packed.image(2), pictures(4)[2])


def test_images_of_mixed_sizes_are_read_one_by_one(tmp_path):
    images = [*pictures(2, size=(3, 4)), *pictures(2, size=(6, 2))]
    packed = open_packed(written(tmp_path / "x.dstl", images=images))
    assert packed.head.height is None and packed.head.width is None
    assert all(np.array_equal(packed.image(row), image) for row, image in enumerate(images))


def test_texts_come_back(tmp_path):
    with PackedWriter(tmp_path / "x.dstl", task="text-classification") as writer:
        for text in ("Grüße", "", "plain"):
            writer.add_text(text, name="lines.csv")
        writer.finish(classes=["x"], labels=np.zeros(3, np.int64), split=np.zeros(3, np.uint8))
    packed = open_packed(tmp_path / "x.dstl")
    assert [packed.text(row) for row in range(3)] == ["Grüße", "", "plain"] and packed.head.channels == 0


def test_equal_contents_give_equal_bytes_and_the_sha256_that_is_told(tmp_path):
    first, second = (written(tmp_path / name).read_bytes() for name in ("1.dstl", "2.dstl"))
    assert first == second
    with PackedWriter(tmp_path / "3.dstl", task="image-classification", channels=3) as writer:
        writer.add_image(pictures(1)[0], name="a")
        told = writer.finish(classes=["x"], labels=np.zeros(1, np.int64), split=np.zeros(1, np.uint8))
    content = (tmp_path / "3.dstl").read_bytes()
    assert told == (hashlib.sha256(content).hexdigest(), len(content))


def test_an_unfinished_file_is_not_left_behind(tmp_path):
    with pytest.raises(ValueError, match="broken"), PackedWriter(tmp_path / "x", task="text-classification") as writer:
        writer.add_text("half", name="a")
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"images": pictures(4, seed=1)},
        {"images": pictures(4)[::-1]},
        {"labels": [1, 1, 0, -1]},
        {"splits": ["test", "train", "validation", "unlabelled"]},
        {"classes": ("a", "c")},
        {"names": ["other", "1", "2", "3"]},
        {"images": [image.reshape(3, 7, 5) for image in pictures(4)]},
    ],
    ids=["pixels", "order", "labels", "splits", "classes", "names", "shape"],
)
def test_the_hash_of_a_file_tells_every_difference_but_notes(changes, tmp_path):
    first = open_packed(written(tmp_path / "1.dstl")).sha256()
    assert open_packed(written(tmp_path / "2.dstl", notes=["A remark."])).sha256() == first
    assert open_packed(written(tmp_path / "3.dstl", **changes)).sha256() != first


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_file_that_was_cut_short_is_told(kept, tmp_path):
    path = written(tmp_path / "x.dstl")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnreadableData, match=r"x\.dstl"):
        open_packed(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UnreadableData, match=r"none\.dstl"):
        open_packed(tmp_path / "none.dstl")
