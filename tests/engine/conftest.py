"""A small data set, a small network and a listening observer, for the tests of training."""

import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import checkpoint
from engine.data.dataset import Dataset, Split

CLASSES = 3


def _split(count, *, first_id, generator):
    """Grey 8x8 images of three classes, told apart by which third of the rows is bright, under much noise."""
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 90, (count, 1, 8, 8), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 3 * label : 3 * label + 2] += 60
    return Split(images.to(torch.uint8), labels, torch.arange(first_id, first_id + count))


@pytest.fixture(scope="session")
def small_dataset():
    """70 images to train on (five batches of 16, the last of 6), 40 for validation, 40 for the test."""
    generator = torch.Generator().manual_seed(0)
    train, validation, test = (_split(n, first_id=100 * n, generator=generator) for n in (70, 41, 42))
    pixels = train.images.double() / 255
    return Dataset(
        name="stripes",
        classes=("top", "middle", "bottom"),
        channels=1,
        image_size=8,
        mean=(float(pixels.mean()),),
        std=(float(pixels.std()),),
        train=train,
        validation=validation,
        test=test,
        sha256="0" * 64,
        notes=(),
    )


def _network(*, seed=0, width=6):
    """Convolution, batch normalisation and dropout: all that makes a run depend on its past."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(width, width, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, CLASSES),
    )


@pytest.fixture
def small_network():
    """Builds the network: equal seeds, equal weights."""
    return _network


@dataclass
class Listener:
    """An observer that keeps all it is told, saves into `folder`, and asks to stop when `stop_when(step)` holds."""

    folder: Path | None = None
    stop_when: object = None
    told: list = field(default_factory=list)
    series: dict = field(default_factory=dict)
    states: list = field(default_factory=list)
    files: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    looks: int = 0
    step: int = 0

    def progress(self, **values):
        self.told.append(values)

    def metrics(self, step, values):
        for name, value in values.items():
            self.series.setdefault(name, []).append((step, value))

    def warning(self, message):
        self.warnings.append(message)

    def checkpoint(self, state):
        self.states.append(copy.deepcopy(state))
        if self.folder is not None:
            path = self.folder / f"{len(list(self.folder.iterdir()))}-step-{state['step']}.ckpt"
            self.files.append((path, checkpoint.save(state, path)[0]))

    def stop_requested(self):
        self.looks += 1
        return bool(self.stop_when and self.stop_when(self.looks))


@pytest.fixture
def listener(tmp_path):
    """Makes observers; those that save do so in a folder of the test."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return partial(Listener, folder)
