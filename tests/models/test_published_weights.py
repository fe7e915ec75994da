"""Published CIFAR-10 weights fit our networks. How they answer is measured where models are inspected."""

import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from models import build, catalog, count

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
