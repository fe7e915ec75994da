"""Unlabelled images: from a packed file or a folder, none of them one that is held back."""

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.errors import UnreadableData
from distillery.spec.dataset import ImageFolderData, StoredData, UnlabelledData
from engine.data.images import MappedImages
from engine.data.readers import load
from engine.data.sealed import sealed
from tests.packing import pack

ID, OTHER = ("dts_" + digit * 26 for digit in "01")
PLACES = ["test", "validation", *["train"] * 8]


def some(count, *, size=(6, 6), channels=1, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, channels, *size), dtype=np.uint8))


def labelled(path, *, unlabelled=()):
    images = [*some(40), *unlabelled]
    labels = [number // 10 % 2 for number in range(40)] + [-1] * len(unlabelled)
    splits = [PLACES[number % 10] for number in range(40)] + ["unlabelled"] * len(unlabelled)
    return pack(path, images, labels=labels, splits=splits)


def alone(path, images):
    """A packed file of images without any label."""
    return pack(path, images, labels=[-1] * len(images), splits=["unlabelled"] * len(images), classes=())


def spec(**unlabelled):
    return StoredData(id=ID, unlabelled=UnlabelledData(**unlabelled))


def test_the_unlabelled_images_of_the_same_file_keep_their_sample_numbers(tmp_path):
    file = labelled(tmp_path / "x.dstl", unlabelled=some(5, seed=1))
    data = load(spec(id=ID), stored=file)
    assert data.unlabelled.ids.tolist() == [40, 41, 42, 43, 44]
    assert data.unlabelled.labels.tolist() == [-1] * 5 and isinstance(data.unlabelled.images, MappedImages)
    assert np.array_equal(data.unlabelled.images[:].numpy(), np.stack(some(5, seed=1)))
    assert len(data.train) == 32, "labelled images are no more and no fewer"
    assert any("5 unlabelled images" in note for note in data.notes)
    assert sealed(data).unlabelled is None


def test_those_of_another_file_get_ids_of_their_own_and_the_size_of_the_labelled(tmp_path):
    file, other = labelled(tmp_path / "x.dstl"), alone(tmp_path / "y.dstl", some(7, size=(9, 8), seed=1))
    data = load(spec(id=OTHER), stored=file, unlabelled=other)
    ids = torch.cat([split.ids for split in (data.train, data.validation, data.test, data.unlabelled)])
    assert len(torch.unique(ids)) == 47
    assert data.unlabelled.images.shape == (7, 1, 6, 6)


def test_of_a_file_in_which_each_image_has_a_label_all_are_used(tmp_path):
    file = labelled(tmp_path / "x.dstl")
    other = pack(tmp_path / "y.dstl", some(6, seed=1), labels=[0] * 6, splits=["train", "test"] * 3)
    data = load(spec(id=OTHER), stored=file, unlabelled=other)
    assert len(data.unlabelled) == 6 and data.unlabelled.labels.tolist() == [-1] * 6


def test_images_of_the_validation_and_test_split_are_left_out(tmp_path):
    file, images = labelled(tmp_path / "x.dstl"), some(40)
    heap = [images[0], *some(3, seed=1), images[1], images[2], images[10]]  # test, …, validation, train, test
    data = load(spec(id=OTHER), stored=file, unlabelled=alone(tmp_path / "y.dstl", heap))
    assert np.array_equal(data.unlabelled.images[:].numpy(), np.stack([*some(3, seed=1), images[2]]))
    assert any("3 unlabelled images are also in the validation or test split" in note for note in data.notes)
    with pytest.raises(UnreadableData, match="Each of the 2") as told:
        load(spec(id=OTHER), stored=file, unlabelled=alone(tmp_path / "z.dstl", [images[0], images[1]]))
    assert told.value.pointer == "/dataset/unlabelled/id"


def test_the_hash_covers_the_unlabelled_images(tmp_path):
    file = labelled(tmp_path / "x.dstl")
    hashes = [
        load(spec(id=OTHER), stored=file, unlabelled=alone(tmp_path / f"{seed}.dstl", some(4, seed=seed))).sha256
        for seed in (1, 2)
    ]
    assert len({*hashes, load(StoredData(id=ID), stored=file).sha256}) == 3


def photographs(folder, *names, seed=0):
    """Colour pictures of random pixels and mixed sizes."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8 + number, 9, 3), dtype=np.uint8)).save(path)
    return folder


def folder_data(root, **unlabelled):
    for place, name in enumerate(("cat", "dog")):
        photographs(root / "labelled" / name, *(f"{number}.png" for number in range(6)), seed=place)
    return ImageFolderData(path=str(root / "labelled"), image_size=8, unlabelled=UnlabelledData(**unlabelled))


def test_a_folder_is_searched_to_its_depth(tmp_path):
    heap = photographs(tmp_path / "heap", "b.png", "a/deep/er/c.webp", "a/d.jpg", ".hidden/e.png", seed=7)
    (heap / "notes.txt").write_text("no image")
    data = load(folder_data(tmp_path, path=str(heap)))
    assert data.unlabelled.images.shape == (3, 3, 8, 8)
    assert int(data.unlabelled.ids.min()) > int(data.train.ids.max())


@pytest.mark.parametrize("comfortable", [True, False])
def test_a_folder_goes_into_memory_or_a_scratch_file(comfortable, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.data.memory.holds_comfortably", lambda size_bytes: comfortable)
    heap = photographs(tmp_path / "heap", "a.png", "b.png", seed=7)
    images = load(folder_data(tmp_path, path=str(heap))).unlabelled.images
    assert isinstance(images, torch.Tensor) is comfortable
    monkeypatch.undo()
    assert torch.equal(images[:], load(folder_data(tmp_path, path=str(heap))).unlabelled.images)


def test_a_folder_with_the_labelled_images_does_not_give_away_those_that_are_held_back(tmp_path):
    data = load(folder_data(tmp_path, path=str(tmp_path)))
    held_back = {image.numpy().tobytes() for split in (data.validation, data.test) for image in split.images}
    assert len(data.unlabelled) == 12 - len(held_back) == len(data.train)
    assert not held_back & {image.numpy().tobytes() for image in data.unlabelled.images}


def test_a_folder_outside_of_the_operators_roots_is_refused(tmp_path, monkeypatch):
    spec_ = folder_data(tmp_path, path=str(photographs(tmp_path / "heap", "a.png", seed=7)))
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", str(tmp_path / "labelled"))
    with pytest.raises(UnreadableData, match="outside") as told:
        load(spec_)
    assert told.value.pointer == "/dataset/unlabelled/path"


def test_a_link_out_of_the_operators_roots_is_refused(tmp_path, monkeypatch):
    elsewhere = photographs(tmp_path / "elsewhere", "a.png", seed=7)
    heap = photographs(tmp_path / "inside" / "heap", "b.png", seed=8)
    (heap / "c.png").symlink_to(elsewhere / "a.png")
    (heap / "folder").symlink_to(elsewhere)
    spec_ = folder_data(tmp_path / "inside", path=str(heap))
    assert len(load(spec_).unlabelled) == 2, "a linked folder is not searched"
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", str(tmp_path / "inside"))
    with pytest.raises(UnreadableData, match="outside"):
        load(spec_)


@pytest.mark.parametrize("make", ["missing", "empty", "broken"])
def test_a_folder_without_readable_images_is_refused(make, tmp_path):
    heap = tmp_path / "heap"
    if make != "missing":
        heap.mkdir()
    if make == "broken":
        (heap / "a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableData) as told:
        load(folder_data(tmp_path, path=str(heap)))
    assert told.value.pointer == "/dataset/unlabelled/path"


def test_files_that_do_not_fit_are_refused(tmp_path):
    file = labelled(tmp_path / "x.dstl")
    cases = [
        (spec(id=OTHER), None, "a service keeps"),
        (spec(id=OTHER), alone(tmp_path / "y.dstl", some(2, channels=3)), "3 channels"),
        (spec(id=ID), None, "no unlabelled images besides"),
    ]
    for asked, other, words in cases:
        with pytest.raises(UnreadableData, match=words) as told:
            load(asked, stored=file, unlabelled=other)
        assert told.value.pointer == "/dataset/unlabelled/id"
