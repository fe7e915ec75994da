"""Stored data: the splits of the packed file, mapped or made once, the same to a network as images in memory."""

import numpy as np
import pytest
import torch

from distillery.errors import UnreadableData
from distillery.spec.dataset import StoredData
from distillery.spec.objectives import CrossEntropyTerm
from distillery.spec.training import Sgd, Training
from engine import evaluate
from engine.data import memory
from engine.data.dataset import Split
from engine.data.images import JoinedImages, MappedImages
from engine.data.packed import PackedWriter, open_packed
from engine.data.readers import load
from engine.data.resize import squared
from engine.data.statistics import channel_statistics
from engine.data.views import batches, ordered
from engine.latency import samples
from engine.loop import train
from engine.objectives import build
from engine.preflight import check_data
from engine.strategies.offline import Offline
from tests.packing import pack, pack_dataset

ID = "dts_" + "0" * 26
SPLITS = ("train", "validation", "test")


def stored(**changes):
    return StoredData(id=ID, **changes)


def loaded(path, **changes):
    return load(stored(**changes), stored=path)


def in_memory(split):
    """The same split with its images in a tensor."""
    return Split(split.images[:].clone(), split.labels, split.ids)


def some(count=40, *, size=(6, 6), channels=1, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, channels, *size), dtype=np.uint8))


def packed_file(path, images=None, **changes):
    """Of each ten images the first two are for the test and validation, the rest for training; two classes."""
    images = some() if images is None else images
    places = ["test", "validation", *["train"] * 8]
    facts = {
        "labels": [number // 10 % 2 for number in range(len(images))],
        "splits": [places[number % 10] for number in range(len(images))],
    }
    return pack(path, images, **(facts | changes))


def test_splits_and_labels_are_those_of_the_file_and_ids_its_sample_numbers(tmp_path):
    path = packed_file(tmp_path / "x.dstl")
    data, packed = loaded(path, validation=0.5, test=0.5, split_seed=9), open_packed(path)
    for name in SPLITS:
        split = getattr(data, name)
        assert split.ids.tolist() == packed.rows(name).tolist()
        assert isinstance(split.images, MappedImages), "nothing is loaded"
        assert np.array_equal(split.images[:].numpy(), packed.images()[split.ids.numpy()])
        assert split.labels.tolist() == packed.labels[split.ids.numpy()].tolist()
    assert (data.name, data.classes, data.channels, data.image_size) == (ID, ("a", "b"), 1, 6)
    assert check_data(data)


def test_a_limit_leaves_training_images_of_every_class(tmp_path):
    path = packed_file(tmp_path / "x.dstl")
    data, whole = loaded(path, limit=10), loaded(path)
    assert torch.bincount(data.train.labels).tolist() == [5, 5]
    assert set(data.train.ids.tolist()) < set(whole.train.ids.tolist())
    assert isinstance(data.train.images, MappedImages) and "limit" in data.notes[-1]
    assert loaded(path, limit=1000).sha256 == whole.sha256, "a limit that limits nothing changes nothing"


def test_a_mapped_split_is_read_as_a_tensor_is(tmp_path):
    images = loaded(packed_file(tmp_path / "x.dstl")).train.images
    tensor, rows = images[:].clone(), torch.tensor([5, 0, 31, 5])
    assert images.shape == tensor.shape and len(images) == len(tensor) and images.device == tensor.device
    for key in (3, -1, slice(2, 9), slice(None, None, 3), slice(30, 99), slice(9, 9), rows, rows - 32, rows > 4):
        key = key if not isinstance(key, torch.Tensor) or key.dtype != torch.bool else torch.arange(32) % 5 == 0
        assert torch.equal(images[key], tensor[key])
    assert torch.equal(images.index_select(0, rows), tensor.index_select(0, rows))
    assert torch.equal(images[torch.tensor(7)], tensor[7])
    for wrong in (32, -33, torch.tensor([0, 32])):
        with pytest.raises(IndexError):
            images[wrong]


def test_joined_images_are_read_as_if_they_were_one_tensor(tmp_path):
    data = loaded(packed_file(tmp_path / "x.dstl"))
    parts = [data.train.images, data.test.images[:], data.validation.images]
    joined, tensor = JoinedImages(parts), torch.cat([part[:] for part in parts])
    rows = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
    assert joined.shape == tensor.shape
    assert torch.equal(joined.index_select(0, rows), tensor[rows]) and torch.equal(joined[5:40], tensor[5:40])
    joined.expect(rows)
    with pytest.raises(IndexError):
        joined[len(tensor)]


def test_views_of_mapped_images_are_those_of_images_in_memory(tmp_path):
    split = loaded(packed_file(tmp_path / "x.dstl", some(60, channels=3))).train
    form = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    shuffled = {"batch_size": 7, "seed": 3, "epoch": 2, "augment": ("crop", "flip"), "start_batch": 1}
    for ours, theirs in (
        (batches(split, **form, **shuffled), batches(in_memory(split), **form, **shuffled)),
        (ordered(split, batch_size=7, **form), ordered(in_memory(split), batch_size=7, **form)),
    ):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels) and torch.equal(one.ids, other.ids)


def test_an_epoch_from_the_file_ends_in_the_weights_of_one_from_memory(
    small_dataset, small_network, listener, tmp_path
):
    data = loaded(pack_dataset(tmp_path / "x.dstl", small_dataset))
    copy = type(data)(**{**vars(data), **{name: in_memory(getattr(data, name)) for name in SPLITS}})
    recipe = Training(
        epochs=2, batch_size=16, seed=5, device="cpu", precision="fp32", schedule="constant", optimizer=Sgd(lr=0.02)
    )
    runs = []
    for each in (data, copy):
        lesson = Offline(small_network(seed=1), objective=build([CrossEntropyTerm(weight=1.0)]), teacher=None)
        runs.append(train(lesson, dataset=each, recipe=recipe, augment=("crop", "flip"), observer=listener()))
    mapped, kept = runs
    assert mapped.history["loss"] == kept.history["loss"]
    assert all(torch.equal(mapped.last[name], value) for name, value in kept.last.items())
    network = small_network(seed=1)
    network.load_state_dict(mapped.best)
    form = {"mean": data.mean, "std": data.std, "device": "cpu"}
    logits = evaluate.predict(network, data.test, **form)
    assert torch.equal(logits, evaluate.predict(network, copy.test, **form))
    told = [
        evaluate.disagreements(each.test, student_logits=logits, teacher_logits=-logits, classes=data.classes)
        for each in (data, copy)
    ]
    assert told[0] and told[0] == told[1]
    inputs = [samples.batches(each, batch_size=8) for each in (data, copy)]
    assert all(torch.equal(one, other) for one, other in zip(*inputs, strict=True))


def test_statistics_are_the_same_in_portions(tmp_path, monkeypatch):
    data = loaded(packed_file(tmp_path / "x.dstl", some(100, channels=3)))
    whole = channel_statistics(data.train.images[:])
    monkeypatch.setattr("engine.data.statistics._BYTES_AT_ONCE", 1000)
    assert channel_statistics(data.train.images) == whole == (data.mean, data.std)


@pytest.mark.parametrize("comfortable", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_other_sizes_are_made_once_in_memory_or_in_a_scratch_file(mixed, comfortable, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "holds_comfortably", lambda size_bytes: comfortable)
    monkeypatch.setattr("engine.data.stored._BYTES_AT_ONCE", 500)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    images = some(40, size=(9, 12), channels=3)
    if mixed:
        images[1::2] = some(20, size=(11, 7), channels=3, seed=1)
    data = loaded(packed_file(tmp_path / "x.dstl", images), image_size=8)
    for name in SPLITS:
        split = getattr(data, name)
        assert isinstance(split.images, torch.Tensor) is comfortable
        expected = [squared(torch.from_numpy(images[row]).unsqueeze(0), size=8) for row in split.ids.tolist()]
        assert torch.equal(split.images[:], torch.cat(expected))
    assert list(scratch.iterdir()) == [], "a scratch file has no name"
    assert any("8x8" in note for note in data.notes)


def test_mixed_sizes_need_a_size(tmp_path):
    path = packed_file(tmp_path / "x.dstl", [*some(20), *some(20, size=(8, 8))])
    with pytest.raises(UnreadableData, match="differ in size") as told:
        loaded(path)
    assert told.value.pointer == "/dataset/image_size"


def test_the_hash_tells_other_pixels_sizes_and_limits_apart(tmp_path):
    path = packed_file(tmp_path / "x.dstl")
    same, other = packed_file(tmp_path / "y.dstl"), packed_file(tmp_path / "z.dstl", some(seed=1))
    hashes = [
        loaded(path).sha256, loaded(other).sha256, loaded(path, image_size=8).sha256, loaded(path, limit=20).sha256,
        loaded(path, limit=20, split_seed=1).sha256,
    ]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert loaded(same).sha256 == hashes[0] == loaded(path, image_size=6).sha256


def test_without_its_file_an_id_cannot_be_read():
    with pytest.raises(UnreadableData, match="a service keeps") as told:
        load(stored())
    assert told.value.pointer == "/dataset/id" and "'kind' and 'path'" in told.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": ["train"] * 40}, "no validation images"),
        ({"labels": [-1] * 40}, "none of the 2 classes"),
        ({"labels": [2] * 40}, "none of the 2 classes"),
    ],
)
def test_a_file_that_nobody_can_learn_from_is_refused(changes, words, tmp_path):
    with pytest.raises(UnreadableData, match=words) as told:
        loaded(packed_file(tmp_path / "x.dstl", **changes))
    assert told.value.pointer == "/dataset/id"


def test_texts_are_refused(tmp_path):
    with PackedWriter(tmp_path / "x.dstl", task="text-classification") as writer:
        writer.add_text("words", name="a")
        writer.finish(classes=["x"], labels=np.zeros(1, np.int64), split=np.zeros(1, np.uint8))
    with pytest.raises(UnreadableData, match="text-classification") as told:
        loaded(tmp_path / "x.dstl")
    assert told.value.pointer == "/dataset/id"
