"""Every row of the catalogue, held against the network that is built from it."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.errors import InvalidRequest, UnknownName
from models import build, catalog, recount, torchvision_zoo
from models.count import multiply_adds, parameters

ROWS = [pytest.param(row, id=row.name) for row in catalog.ROWS]
OURS = [row.name for row in catalog.ROWS if row.family != "torchvision_zoo"]
SOME_OF_TORCHVISION = [
    "resnet18",
    "mobilenet_v3_small",
    "densenet121",
    "vit_b_16",
    "shufflenet_v2_x0_5",
    "convnext_tiny",
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_tells_the_truth_about_its_network(row: catalog.Row) -> None:
    channels, side, _ = row.input
    network = recount.on_meta(row.family, row.name, image_size=side, channels=channels)
    assert parameters(network) == row.parameters
    assert multiply_adds(network, channels=channels, image_size=side) == row.macs
    assert row.stages
    for stage in row.stages:
        network.get_submodule(stage)


def test_the_catalogue_holds_every_classification_network_of_torchvision() -> None:
    listed = {row.name for row in catalog.ROWS if row.family == "torchvision_zoo"}
    assert listed == set(torchvision_zoo.names())


def test_the_figures_of_the_design_document_hold() -> None:
    teacher, student = catalog.find("seed_teacher"), catalog.find("seed_student")
    assert (teacher.parameters, student.parameters) == (12_976_266, 620_362)
    assert round(teacher.parameters / student.parameters, 1) == 20.9
    assert round(teacher.macs / student.macs, 1) == 56.8


@pytest.mark.parametrize(
    ("name", "published"),
    [("resnet8x4", 1_233_540), ("resnet32x4", 7_433_860), ("wrn40-2", 2_255_156), ("wrn16-2", 703_284)],
)
def test_networks_of_the_literature_have_their_published_size(name: str, published: int) -> None:
    assert parameters(build(name, classes=100, image_size=32, channels=3)) == published


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 33)])
def test_our_networks_read_any_size_and_channel_count(name: str, channels: int, side: int) -> None:
    network = build(name, classes=7, image_size=side, channels=channels).eval()
    images = torch.randn(2, channels, side, side)
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (2, 7)
        assert torch.equal(logits, network(images))


@pytest.mark.parametrize("name", SOME_OF_TORCHVISION)
def test_torchvision_networks_keep_the_resolution_of_small_images(name: str) -> None:
    network = build(f"torchvision/{name}", classes=5, image_size=32, channels=1).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    stages = torchvision_zoo.stages_of(network, image=torch.randn(1, 1, 32, 32))
    assert len(stages) >= 3


def test_torchvision_networks_at_their_native_size_have_torchvisions_own_tensors() -> None:
    from torchvision.models import resnet18

    ours = build("torchvision/resnet18", classes=1000, image_size=224, channels=3).state_dict()
    theirs = resnet18().state_dict()
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}


def test_an_image_too_small_is_refused_with_the_smallest_size() -> None:
    with pytest.raises(InvalidRequest, match="at least 75 pixels"):
        build("torchvision/inception_v3", classes=10, image_size=32, channels=3)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'resnet20'"):
        build("resnet21", classes=10, image_size=32, channels=3)


def test_the_catalogue_needs_no_torch() -> None:
    program = "import models, models.catalog, sys, json; print(json.dumps('torch' in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout) is False


def test_published_weights_load_strictly_and_reach_their_published_accuracy(data_root) -> None:
    """Akamaster's resnet20: 91.73 % on the CIFAR-10 test split."""
    weights = next(data_root("cifar10-resnet-weights").glob("resnet20-*.th"))
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    network = build("resnet20", classes=10, image_size=32, channels=3).eval()
    network.load_state_dict({name.removeprefix("module."): each for name, each in state.items()}, strict=True)
    images, labels = cifar10_test(data_root("cifar10") / "cifar10_test.zip")
    with torch.inference_mode():
        right = sum(int((network(part).argmax(1) == truth).sum()) for part, truth in zip(images, labels, strict=True))
    assert right / 10_000 == pytest.approx(0.9173, abs=0.0005)


def cifar10_test(path):
    """Batches of normalised images and labels, straight from the zip."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        classes = sorted({name.split("/")[-2] for name in names})
        pixels = [np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in names]
    labels = torch.tensor([classes.index(name.split("/")[-2]) for name in names])
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    batches = [(part.float() / 255 - mean) / std for part in images.split(500)]
    return batches, labels.split(500)
