"""Published CIFAR-10 weights fit our networks, and answer as published."""

import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from models import build, catalog, count

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PUBLISHED_PARAMETERS = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018}

DataRoot = Callable[[str], Path]


def published(folder: Path, name: str) -> torch.nn.Module:
    """The network with the weights that its author trained."""
    (path,) = folder.glob(f"{name}-*.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    network = build(name, classes=10, image_size=32, channels=3).eval()
    network.load_state_dict({key.removeprefix("module."): each for key, each in state.items()}, strict=True)
    return network


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_akamasters_weights_load_strictly(name: str, data_root: DataRoot) -> None:
    network = published(data_root("cifar10-resnet-weights"), name)
    assert count.parameters(network) == PUBLISHED_PARAMETERS[name] == catalog.find(name).parameters


def test_akamasters_resnet20_reaches_its_published_accuracy(data_root: DataRoot) -> None:
    network = published(data_root("cifar10-resnet-weights"), "resnet20")
    right = images = 0
    with torch.inference_mode():
        for pixels, label in images_of(data_root("cifar10") / "cifar10_test.zip"):
            for part in torch.split(pixels, 100):  # small enough for its maps to stay in the processor's cache
                right += int((network((part / 255 - MEAN) / STD).argmax(1) == label).sum())
                images += len(part)
    assert images == 10_000
    assert 100 * right / images == pytest.approx(91.73, abs=0.05)


def images_of(archive: Path) -> Iterator[tuple[torch.Tensor, int]]:
    """Each class's images as uint8 [N, 3, 32, 32], with its label: its place in the alphabet."""
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".webp"))
        for label, (_, members) in enumerate(groupby(names, key=lambda name: name.rpartition("/")[0])):
            yield torch.stack([read(files, name) for name in members]), label


def read(files: zipfile.ZipFile, name: str) -> torch.Tensor:
    """One picture as uint8 [3, 32, 32]."""
    with files.open(name) as file, Image.open(file) as picture:
        pixels: torch.Tensor = pil_to_tensor(picture.convert("RGB"))
    return pixels
