"""From encoded bytes on: the answers are those of the network alone, and the images those that training reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.errors import UnreadableData
from engine.data.dataset import Dataset
from engine.data.image_folder import ImageFiles
from engine.data.views import Normalisation, ordered
from engine.export import export_onnx
from engine.latency.encoded import EncodedSession, Reading, SampleImages, png, stages
from engine.runtimes import Eager, Forms, Session, find

CPU = torch.device("cpu")


def _session(network: torch.nn.Module) -> Session:
    return Eager().load(Forms(network.eval()), device=CPU, threads=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_gives_back_its_pixels(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 9, 7), dtype=torch.uint8)
    reading = Reading(channels=channels, image_size=7, mean=(0.5,) * channels, std=(0.25,) * channels)
    (pixels,) = reading.decoded([png(image)])
    assert torch.equal(pixels, image)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_from_bytes_are_those_of_the_network_alone(small_dataset: Dataset, small_network, batch_size) -> None:
    images = SampleImages.of(small_dataset, encoded=True)
    alone = _session(small_network())
    whole = EncodedSession(_session(small_network()), reading=images.reading)
    tensors, files = images.tensors(batch_size), images.encoded(batch_size)
    assert len(tensors) == len(files) == max(1, 42 // batch_size if 42 // batch_size < 8 else 8)
    whole.feed(files)
    for batch, encoded in zip(tensors, files, strict=True):
        assert batch.shape == (batch_size, 1, 8, 8)
        assert np.array_equal(whole.answers(encoded), alone.logits(batch))
    assert whole.call(len(files)) is None  # round and round
    assert np.array_equal(whole.logits(tensors[0]), alone.logits(tensors[0]))


def test_so_they_are_in_onnx_runtime(small_dataset: Dataset, small_network, tmp_path: Path) -> None:
    network = small_network().eval()
    export_onnx(network, tmp_path / "network.onnx", channels=1, image_size=8)
    session = find("onnxruntime").load(Forms(network, onnx=tmp_path / "network.onnx"), device=CPU, threads=1)
    images = SampleImages.of(small_dataset, encoded=True)
    whole = EncodedSession(session, reading=images.reading)
    assert np.array_equal(whole.answers(images.encoded(4)[0]), session.logits(images.tensors(4)[0]))


def test_the_samples_are_images_of_the_test_split_as_evaluation_reads_them(small_dataset: Dataset) -> None:
    images = SampleImages.of(small_dataset, encoded=False, most=42)
    (batch,) = images.tensors(42)
    (expected,) = ordered(small_dataset.test, batch_size=42, mean=small_dataset.mean, std=small_dataset.std)
    assert torch.equal(batch, expected.images)
    assert images.files == ()
    few = SampleImages.of(small_dataset, encoded=False, most=3)
    assert torch.equal(few.pixels, small_dataset.test.images[torch.tensor([0, 20, 41])])


def test_photographs_are_cut_and_resized_as_an_image_folder_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for number, (shape, suffix) in enumerate([((20, 13, 3), "png"), ((16, 31, 3), "jpg"), ((8, 8, 3), "webp")]):
        files.append(tmp_path / f"{number}.{suffix}")
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(files[-1])
    read = ImageFiles(tuple(files), 3, 8, mixed=True)(torch.arange(3))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    reading = Reading(channels=3, image_size=8, mean=mean, std=std)
    prepared = reading.prepared(reading.decoded([file.read_bytes() for file in files]))
    assert torch.equal(prepared, Normalisation(mean=mean, std=std, device=CPU)(read))


def test_bytes_that_are_no_image_are_named_by_their_place(small_dataset: Dataset, small_network) -> None:
    images = SampleImages.of(small_dataset, encoded=True)
    whole = EncodedSession(_session(small_network()), reading=images.reading)
    good = images.files[0]
    with pytest.raises(UnreadableData, match="image 1 of the batch is not a whole JPEG, PNG or WebP image"):
        whole.answers((good, good[: len(good) // 2]))


def test_the_time_of_a_call_is_divided_into_its_stages(small_dataset: Dataset, small_network) -> None:
    images = SampleImages.of(small_dataset, encoded=True)
    whole = EncodedSession(_session(small_network()), reading=images.reading)
    whole.feed(images.encoded(2))
    moments = iter([0.0, 1.0, 3.0, 7.0, 10.0, 12.0, 15.0, 20.0, 30.0, 31.0, 35.0, 36.0])
    told = stages(whole, calls=3, clock=lambda: next(moments))
    assert (told.decode_seconds, told.prepare_seconds, told.compute_seconds) == (1.0, 3.0, 4.0)
    real = stages(whole)
    assert min(real.decode_seconds, real.prepare_seconds, real.compute_seconds) > 0
