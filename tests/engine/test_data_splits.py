"""Held-out images: stratified, drawn from the split seed alone, and apart from the training images for good."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import UnreadableData
from distillery.spec.dataset import DigitsData, NpzData
from engine.data.dataset import Dataset
from engine.data.readers import channel_statistics, load
from engine.data.resize import squared
from engine.data.splits import held_out, limited

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=300).map(lambda found: torch.tensor(found))


@settings(deadline=None, max_examples=60)
@given(labels=label_lists, share=st.floats(0.01, 0.89), seed=st.integers(0, 2**32 - 1))
def test_every_image_is_kept_or_held_back_and_each_class_in_proportion(
    labels: torch.Tensor, share: float, seed: int
) -> None:
    stay, back = held_out(labels, share=share, seed=seed, purpose="test")
    assert torch.cat((stay, back)).sort().values.tolist() == list(range(len(labels)))
    for label in torch.unique(labels):
        total, held = int((labels == label).sum()), int((labels[back] == label).sum())
        assert held < total, "a class always keeps an image to train on"
        assert abs(held - share * total) <= 1.5 if total > 1 else held == 0


@settings(deadline=None, max_examples=60)
@given(labels=label_lists, share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_a_limit_takes_exactly_that_many_and_each_class_in_proportion(
    labels: torch.Tensor, share: float, seed: int
) -> None:
    classes = torch.unique(labels)
    limit = len(classes) + int(share * (len(labels) - len(classes)))
    rows = limited(labels, limit=limit, seed=seed)
    assert len(rows) == limit == len(torch.unique(rows))
    for label in classes:
        kept, total = int((labels[rows] == label).sum()), int((labels == label).sum())
        assert 1 <= kept <= total
        assert kept <= limit * total / len(labels) + 1


def test_the_draw_depends_on_the_seed_and_the_purpose_only() -> None:
    labels = torch.arange(200) % 4
    first = held_out(labels, share=0.2, seed=5, purpose="test")[1]
    assert torch.equal(first, held_out(labels, share=0.2, seed=5, purpose="test")[1])
    assert not torch.equal(first, held_out(labels, share=0.2, seed=6, purpose="test")[1])
    assert not torch.equal(first, held_out(labels, share=0.2, seed=5, purpose="validation")[1])


def test_a_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(UnreadableData, match="3 images cannot hold one of each of the 4 classes") as caught:
        limited(torch.arange(20) % 4, limit=3, seed=0)
    assert caught.value.pointer == "/dataset/limit"


def ids_of(dataset: Dataset) -> list[set[int]]:
    return [set(split.ids.tolist()) for split in (dataset.train, dataset.validation, dataset.test)]


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("brought", [(), ("test",), ("val",), ("test", "val")])
def test_the_three_splits_never_share_an_id_whatever_the_data_brings(
    tmp_path: Path, brought: tuple[str, ...], limit: int | None
) -> None:
    sizes = {"train": 300, **dict.fromkeys(brought, 50)}
    arrays = {}
    for number, (split, count) in enumerate(sizes.items()):
        arrays[f"x_{split}"] = np.full((count, 4, 4), number, dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 5
    np.savez(tmp_path / "data.npz", **arrays)
    dataset = load(NpzData(path=str(tmp_path / "data.npz"), limit=limit))
    train, validation, test = ids_of(dataset)
    assert not train & validation
    assert not train & test
    assert not validation & test
    if limit is None:
        assert train | validation | test == set(range(sum(sizes.values())))
    # 60 images of a class: a fifth is 12 for the test split, a tenth of what is left 5 (of 48) or 6 for validation.
    left = {(): 43, ("test",): 54, ("val",): 48, ("test", "val"): 60}[brought]
    assert len(train) == (limit or 5 * left)
    told = " ".join(dataset.notes)
    assert ("no test split" in told) == ("test" not in brought)
    assert ("no validation split" in told) == ("val" not in brought)
    assert ("'limit'" in told) == (limit is not None)


def test_limit_and_validation_leave_the_test_split_alone() -> None:
    whole, small = load(DigitsData()), load(DigitsData(limit=50, validation=0.3))
    assert torch.equal(whole.test.ids, small.test.ids)
    assert torch.equal(whole.test.images, small.test.images)
    assert len(small.train) == 50


def test_another_split_seed_draws_other_images() -> None:
    one, other = load(DigitsData()), load(DigitsData(split_seed=1))
    assert not torch.equal(one.test.ids, other.test.ids)
    assert one.sha256 != other.sha256


def test_images_of_which_none_can_be_held_back_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.arange(3))
    with pytest.raises(UnreadableData, match=r"No images are left for the test split"):
        load(NpzData(path=str(tmp_path / "one.npz")))


def test_the_hash_is_the_same_on_every_machine() -> None:
    # Golden: the digits never change. Another value means that other pixels, splits or sizes are made than before,
    # and that resolved specs of earlier jobs no longer fit the data.
    assert load(DigitsData()).sha256[:12] == "c6724a7b0c6b"
    assert load(DigitsData(image_size=16)).sha256[:12] == "0c1c7e6df5df"


@pytest.mark.parametrize("what", ["pixel", "label", "membership", "class name", "size"])
def test_the_hash_sees_every_change(tmp_path: Path, what: str) -> None:
    arrays = {"images": np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4), "labels": np.arange(40) % 2}
    np.savez(tmp_path / "one.npz", **arrays)
    changes: dict[str, object] = {}
    if what == "pixel":
        arrays["images"][7, 0, 0] += 1
    if what == "label":
        arrays["labels"][[0, 1]] = arrays["labels"][[1, 0]]
    if what == "membership":
        changes["split_seed"] = 9
    if what == "class name":
        changes["classes"] = ("left", "right")
    if what == "size":
        changes["image_size"] = 5
    np.savez(tmp_path / "two.npz", **arrays)
    one = load(NpzData(path=str(tmp_path / "one.npz")))
    two = load(NpzData(path=str(tmp_path / "two.npz"), **changes))  # type: ignore[arg-type]  # varied by the test
    assert one.sha256 == load(NpzData(path=str(tmp_path / "one.npz"))).sha256
    assert one.sha256 != two.sha256


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 20), channels=st.sampled_from([1, 3]), seed=st.integers(0, 100))
def test_mean_and_deviation_are_those_of_float64(count: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, channels, 5, 5), dtype=np.uint8)
    mean, std = channel_statistics(torch.from_numpy(images))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_has_deviation_one() -> None:
    assert channel_statistics(torch.full((4, 1, 3, 3), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


def test_mean_and_deviation_come_from_the_training_split_alone(tmp_path: Path) -> None:
    train = np.zeros((40, 4, 4), np.uint8)
    train[::2] = 255
    arrays = {
        "x_train": train,
        "y_train": np.arange(40) // 2 % 2,
        "x_val": train[:4] // 2,
        "y_val": np.array([0, 1, 0, 1]),
    }
    np.savez(tmp_path / "d.npz", **arrays, x_test=np.full((6, 4, 4), 99, np.uint8), y_test=np.arange(6) % 2)
    dataset = load(NpzData(path=str(tmp_path / "d.npz")))
    assert dataset.mean == (0.5,)
    assert dataset.std == (0.5,)


def test_resizing_gives_what_pillow_gives_to_within_one_level() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 30), dtype=np.uint8)
    found = squared(torch.from_numpy(pixels), size=16)
    assert found.shape == (2, 3, 16, 16)
    for image, small in zip(pixels, found, strict=True):
        cut = Image.fromarray(image[:, 5:35].transpose(1, 2, 0))
        oracle = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1).astype(int)
        assert np.abs(oracle - small.numpy()).max() <= 1


def test_resizing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (10, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = squared(images, size=12)
    monkeypatch.setattr("engine.data.resize._PIXELS_AT_ONCE", 3 * 144)
    assert torch.equal(whole, squared(images, size=12))


def test_resized_bytes_do_not_depend_on_the_processor() -> None:
    images = torch.arange(3 * 33 * 33, dtype=torch.int64).mul(2654435761).remainder(256).to(torch.uint8)
    found = squared(images.view(1, 3, 33, 33), size=20)
    # Golden, and the same with ATEN_CPU_CAPABILITY default, avx2 and avx512.
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest()[:16] == "10277f771c624602"


def test_images_that_are_not_square_are_cut_to_their_centre_and_the_notes_say_so(tmp_path: Path) -> None:
    images = np.zeros((30, 6, 10), np.uint8)
    images[:, :, 2:8] = 200
    np.savez(tmp_path / "wide.npz", images=images, labels=np.arange(30) % 2)
    dataset = load(NpzData(path=str(tmp_path / "wide.npz")))
    assert dataset.image_size == 6
    assert bool((dataset.train.images == 200).all())
    assert any("6x10" in note and "6x6" in note for note in dataset.notes)
