"""Batches: one order and one set of views per (seed, epoch), the same from wherever a run resumes."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import UnknownName
from engine.data.cuts import augmented
from engine.data.dataset import Split
from engine.data.views import (
    AUGMENTATIONS,
    Batch,
    Normalisation,
    batch_count,
    batches,
    epoch_order,
    ordered,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
augmentations = st.lists(st.sampled_from(AUGMENTATIONS), unique=True).map(tuple)


def split_of(count: int, *, size: int = 8, channels: int = 3) -> Split:
    random = torch.Generator().manual_seed(count)
    return Split(
        images=torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=random),
        labels=torch.arange(count) % 3,
        ids=torch.arange(count) + 1000,
    )


def epoch_of(split: Split, **changes: object) -> list[Batch]:
    asked = {"batch_size": 4, "seed": 0, "epoch": 0, "augment": AUGMENTATIONS, "mean": MEAN, "std": STD, **changes}
    return list(batches(split, **asked))  # type: ignore[arg-type]  # the keywords are varied by the tests


def assert_same(some: Iterable[Batch], others: Iterable[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.ids, other.ids)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 10_000),
    augment=augmentations,
    share=st.floats(0, 1),
)
def test_a_resumed_epoch_is_the_tail_of_the_full_one_bit_for_bit(
    count: int, batch_size: int, seed: int, epoch: int, augment: tuple[str, ...], share: float
) -> None:
    split = split_of(count)
    changes = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "augment": augment}
    full = epoch_of(split, **changes)
    start = int(share * len(full))
    assert_same(epoch_of(split, start_batch=start, **changes), full[start:])


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10_000))
def test_an_epochs_order_is_a_permutation_and_a_function_of_seed_and_epoch(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.sort().values.tolist() == list(range(count))
    assert torch.equal(order, epoch_order(count, seed=seed, epoch=epoch))


def test_epochs_and_seeds_give_other_orders_and_other_views() -> None:
    split = split_of(60)
    first = epoch_of(split, batch_size=60)[0]
    for changes in ({"epoch": 1}, {"seed": 1}):
        other = epoch_of(split, batch_size=60, **changes)[0]
        assert not torch.equal(first.ids, other.ids)
        same_row = [(one, int((other.ids == ident).nonzero())) for one, ident in enumerate(first.ids.tolist())]
        moved = sum(not torch.equal(first.images[one], other.images[two]) for one, two in same_row)
        assert moved > 40, "an image is augmented anew in every epoch"


def test_global_random_state_neither_matters_nor_changes() -> None:
    split = split_of(20)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_of(split)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(first, epoch_of(split))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4]),  # a last batch of one image has no variance for batch norm
        (1, 4, [1]),
        (3, 4, [3]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_the_last_batch_is_kept_unless_it_is_a_single_image_among_others(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    found = epoch_of(split_of(count), batch_size=batch_size)
    assert [len(batch.labels) for batch in found] == sizes
    assert batch_count(count, batch_size=batch_size) == len(sizes)


def test_images_labels_and_ids_stay_together() -> None:
    split = split_of(30)
    for batch in epoch_of(split, augment=()):
        for image, label, ident in zip(batch.images, batch.labels, batch.ids, strict=True):
            row = int(ident) - 1000
            assert label == split.labels[row]
            assert torch.equal(
                image, Normalisation(mean=MEAN, std=STD, device=image.device)(split.images[row : row + 1])[0]
            )


def test_normalisation_is_the_textbook_formula() -> None:
    split = split_of(7)
    found = next(ordered(split, batch_size=7, mean=MEAN, std=STD)).images
    column = (1, 3, 1, 1)
    oracle = (split.images.numpy() / 255 - np.reshape(MEAN, column)) / np.reshape(STD, column)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), oracle, atol=2e-6)


def test_evaluation_reads_every_image_once_in_order() -> None:
    split = split_of(9)
    read = list(ordered(split, batch_size=4, mean=MEAN, std=STD))
    assert [len(batch.labels) for batch in read] == [4, 4, 1]
    assert torch.equal(torch.cat([batch.ids for batch in read]), split.ids)
    assert torch.equal(torch.cat([batch.labels for batch in read]), split.labels)


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_channels_last_changes_the_layout_and_no_value(augment: tuple[str, ...]) -> None:
    split = split_of(16)
    plain, other = (epoch_of(split, augment=augment, channels_last=layout) for layout in (False, True))
    assert_same(plain, other)
    assert all(batch.images.is_contiguous() for batch in plain)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in other)


def crops_of(image: torch.Tensor, *, pad: int) -> list[bytes]:
    """Every crop of [C, H, W] padded with zeros, row by row: written with plain slices."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)))
    return [
        padded[:, top : top + height, left : left + width].tobytes()
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]


@pytest.mark.parametrize(("size", "pad"), [(4, 1), (8, 1), (16, 2), (33, 4)])
def test_a_crop_is_a_window_of_the_zero_padded_image_and_every_window_occurs(size: int, pad: int) -> None:
    image = split_of(1, size=size).images
    views = augmented(image.expand(3000, -1, -1, -1), augment=("crop",), generator=torch.Generator().manual_seed(0))
    windows = crops_of(image[0], pad=pad)
    found = {view.numpy().tobytes() for view in views}
    assert found == set(windows)
    assert len(found) == (2 * pad + 1) ** 2


def test_crop_keeps_the_rows_of_images_that_are_not_square() -> None:
    image = torch.arange(2 * 8 * 12, dtype=torch.uint8).view(1, 2, 8, 12)
    views = augmented(image.expand(200, -1, -1, -1), augment=("crop",), generator=torch.Generator().manual_seed(0))
    assert {view.numpy().tobytes() for view in views} == set(crops_of(image[0], pad=1))


def test_a_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    image = split_of(1).images
    views = augmented(image.expand(2000, -1, -1, -1), augment=("flip",), generator=torch.Generator().manual_seed(0))
    mirrored = (views == image.flip(-1)).flatten(1).all(1)
    unchanged = (views == image).flatten(1).all(1)
    assert bool((mirrored ^ unchanged).all())
    assert 900 < int(mirrored.sum()) < 1100


def test_adding_a_flip_leaves_the_crops_as_they_are() -> None:
    images = split_of(50, size=16).images
    cropped, both = (
        augmented(images, augment=augment, generator=torch.Generator().manual_seed(3))
        for augment in (("crop",), ("crop", "flip"))
    )
    unflipped = (cropped == both).flatten(1).all(1)
    assert 10 < int(unflipped.sum()) < 40, "an image that is not mirrored is cropped at the same place as before"


def test_the_split_itself_is_never_changed() -> None:
    split = split_of(20)
    before = split.images.clone()
    epoch_of(split)
    list(ordered(split, batch_size=6, mean=MEAN, std=STD))
    assert torch.equal(split.images, before)


def test_an_unknown_augmentation_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"'rotate'.*crop, flip"):
        epoch_of(split_of(4), augment=("crop", "rotate"))
