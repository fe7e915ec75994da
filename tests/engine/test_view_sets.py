"""Views that have numbers: the same number is the same pixels, for every seed, batch size and epoch."""

import pytest
import torch

from engine.data.dataset import Split
from engine.data.view_sets import DrawnViews, EveryView, distinct, view_set
from engine.data.views import batches

SCALE = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
BOTH = ("crop", "flip")


def split_of(count, *, size=8):
    pixels = torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Split(pixels, torch.arange(count) % 3, torch.arange(count) + 100)


def seen(split, *, views, seed, epochs, batch_size=7, augment=BOTH):
    """The images of each cell that a run shows."""
    found = {}
    for epoch in range(epochs):
        options = {"seed": seed, "epoch": epoch, "augment": augment, "views": views, "batch_size": batch_size}
        for batch in batches(split, **options, **SCALE):
            for cell, image in zip(batch.cells.tolist(), batch.images, strict=True):
                assert cell not in found or torch.equal(found[cell], image)
                found[cell] = image
    return found


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), BOTH])
@pytest.mark.parametrize("views", [1, 3, None])
def test_a_cell_is_the_same_pixels_whatever_the_seed_and_the_batch_size(augment, views):
    split = split_of(20)
    one = seen(split, views=views, seed=1, epochs=6, augment=augment)
    other = seen(split, views=views, seed=2, epochs=6, batch_size=5, augment=augment)
    common = one.keys() & other.keys()
    assert common
    assert all(torch.equal(one[cell], other[cell]) for cell in common)


@pytest.mark.parametrize(
    ("size", "augment", "count"), [(32, BOTH, 162), (32, ("crop",), 81), (8, BOTH, 18), (8, (), 1)]
)
def test_every_view_that_can_be_drawn_has_a_number_of_its_own(size, augment, count):
    assert distinct(image_size=size, augment=augment) == count
    views = EveryView(1, image_size=size, augment=augment)
    made, planes = views.views(torch.zeros(20_000, dtype=torch.int64), seed=0, epoch=0, batch=0)
    flips = [False] * 20_000 if made.mirrored is None else made.mirrored.tolist()
    pairs = {
        (plane, *corner, mirrored)
        for plane, corner, mirrored in zip(planes.tolist(), made.corner.T.tolist(), flips, strict=True)
    }
    assert len(pairs) == len(set(planes.tolist())) == count
    assert set(planes.tolist()) == set(range(count))


def test_no_more_views_are_shown_than_were_asked_for_and_each_epoch_of_the_first_shows_new_ones():
    split = split_of(30)
    shown = seen(split, views=4, seed=3, epochs=11)
    assert len(shown) == 4 * 30
    for epoch in range(9):
        options = {"batch_size": 8, "seed": 3, "epoch": epoch, "augment": BOTH, "views": 4}
        cells = torch.cat([batch.cells for batch in batches(split, **options, **SCALE)])
        assert torch.equal(cells.sort().values, torch.arange(30) + epoch % 4 * 30)


def test_a_larger_set_begins_with_the_views_of_a_smaller_one():
    split = split_of(10)
    few, many = (seen(split, views=views, seed=0, epochs=6) for views in (2, 6))
    assert few.keys() < many.keys()
    assert all(torch.equal(few[cell], many[cell]) for cell in few)


def test_views_of_a_set_differ_from_image_to_image_and_from_plane_to_plane():
    views = DrawnViews(500, planes=2, image_size=32, augment=BOTH)
    rows = torch.arange(500)
    first, second = (views.views(rows, seed=0, epoch=epoch, batch=0)[0] for epoch in (0, 1))
    assert (
        len({(*corner, flip) for corner, flip in zip(first.corner.T.tolist(), first.mirrored.tolist(), strict=True)})
        > 100
    )
    assert (first.corner != second.corner).any(0).float().mean() > 0.9
    assert 0.4 < first.mirrored.float().mean() < 0.6


def test_a_set_that_is_no_smaller_than_all_views_is_all_views():
    options = {"count": 5, "image_size": 8, "augment": ("flip",)}
    assert isinstance(view_set(1, **options), DrawnViews)
    assert isinstance(view_set(2, **options), EveryView)
    assert view_set(8, **options).planes == 2
