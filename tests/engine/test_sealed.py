"""A sealed data set refuses to be learned from, tells all else, and stays open for the test."""

import copy
from dataclasses import replace

import pytest
import torch

from engine.data.sealed import sealed
from engine.data.views import batches, ordered
from engine.evaluate import predict

READERS = {
    "images": lambda split: split.images,
    "labels": lambda split: split.labels,
    "ids": lambda split: split.ids,
    "length": len,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_sealed_split_refuses_to_be_read_in_a_whole_sentence(small_dataset, name, what):
    split = getattr(sealed(small_dataset), name)
    called = {"train": "training", "validation": "validation"}[name]
    with pytest.raises(AssertionError) as refusal:
        READERS[what](split)
    assert str(refusal.value) == (
        f"This run promises not to read the {called} split, and something asked for its {what}."
    )


def test_neither_batches_nor_predictions_come_out_of_a_sealed_split(small_dataset, small_network):
    data = sealed(small_dataset)
    scale = {"mean": data.mean, "std": data.std}
    with pytest.raises(AssertionError, match="promises"):
        next(batches(data.train, batch_size=4, seed=0, epoch=0, augment=(), **scale))
    with pytest.raises(AssertionError, match="promises"):
        next(ordered(data.validation, batch_size=4, **scale))
    with pytest.raises(AssertionError, match="promises"):
        predict(small_network(), data.validation, device="cpu", **scale)


def test_asking_whether_a_split_has_something_counts_as_reading(small_dataset):
    split = sealed(small_dataset).train
    with pytest.raises(AssertionError, match="length"):
        bool(split)
    with pytest.raises(AssertionError, match="images"):
        hasattr(split, "images")


def test_it_stays_sealed_when_moved_replaced_or_copied(small_dataset):
    data = replace(sealed(small_dataset).to("cpu"), mean=(0.5,)).to(torch.device("cpu"))
    for split in (data.train, data.validation, copy.deepcopy(data.train)):
        with pytest.raises(AssertionError, match="promises"):
            len(split)
    assert "training" in repr(data.train)
    assert "tensor" not in repr(data.train)


def test_all_else_is_as_it_was(small_dataset):
    data = sealed(small_dataset)
    assert data.test is small_dataset.test
    assert torch.equal(data.to("cpu").test.images, small_dataset.test.images)
    for name in ("name", "classes", "channels", "image_size", "mean", "std", "sha256", "notes"):
        assert getattr(data, name) == getattr(small_dataset, name)
    assert len(small_dataset.train) == 70
