"""torchvision's networks: its own weights fit, small images and other channels do too, and what cannot work says so."""

import pytest
import torch
from torch import nn
from torchvision import models as zoo

from distillery.errors import InvalidRequest
from models import build, catalog, count

ROWS = [row for row in catalog.ROWS if row.name.startswith("torchvision/")]
FAMILIES = {row.family: row for row in sorted(ROWS, key=lambda row: -row.parameters)}
ONE_OF_EACH = tuple(FAMILIES.values())
"""The lightest of each family."""


def short(row: catalog.Row) -> str:
    return row.name.removeprefix("torchvision/")


@pytest.mark.parametrize("row", ONE_OF_EACH, ids=short)
def test_with_its_native_input_a_network_is_torchvisions_own(row: catalog.Row) -> None:
    weights = zoo.get_model_weights(short(row)).DEFAULT
    without_side_heads = {"aux_logits": False, "init_weights": True} if row.family in ("googlenet", "inception") else {}
    with torch.device("meta"):
        ours = build(row.name, classes=1000, image_size=row.input[1], channels=3)
        macs = count.multiply_adds(ours, channels=3, image_size=row.input[1])
    if row.family != "regnet":  # which torchvision itself cannot make without data
        with torch.device("meta"):
            theirs = zoo.get_model(short(row), weights=None, **without_side_heads)
    else:
        theirs = zoo.get_model(short(row), weights=None)

    assert {name: each.shape for name, each in ours.state_dict().items()} == {
        name: each.shape for name, each in theirs.state_dict().items()
    }
    assert weights.meta["_ops"] == pytest.approx(macs / 1e9, abs=6e-4)  # published in billions, to three places
    if not without_side_heads:
        assert weights.meta["num_params"] == count.parameters(ours)


@pytest.mark.parametrize("row", ONE_OF_EACH, ids=short)
def test_the_smallest_image_and_one_channel_give_logits(row: catalog.Row) -> None:
    network = build(row.name, classes=3, image_size=row.smallest, channels=1).eval()
    images = torch.randn(2, 1, row.smallest, row.smallest)
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(network(images), logits)
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("row", [row for row in ROWS if row.smallest > 4], ids=short)
def test_a_smaller_image_is_refused_with_the_smallest_workable_size(row: catalog.Row) -> None:
    with pytest.raises(InvalidRequest) as raised:
        build(row.name, classes=3, image_size=row.smallest - 1, channels=3)
    assert f"{row.smallest}x{row.smallest}" in raised.value.detail
    assert str(row.smallest) in raised.value.hint


@pytest.mark.parametrize("row", [FAMILIES["resnet"], FAMILIES["googlenet"], FAMILIES["shufflenetv2"]], ids=short)
def test_training_gives_one_tensor_too(row: catalog.Row) -> None:
    logits = build(row.name, classes=5, image_size=32, channels=3).train()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 5)
    logits.sum().backward()


@pytest.mark.parametrize("row", [row for row in ONE_OF_EACH if row.small_input], ids=short)
def test_stages_can_be_tapped_in_the_form_for_small_images(row: catalog.Row) -> None:
    with torch.device("meta"):
        network = build(row.name, classes=5, image_size=32, channels=3)
    for stage in row.stages:
        network.get_submodule(stage)


def test_a_small_image_keeps_its_pixels_until_the_first_stage() -> None:
    network = build("torchvision/resnet18", classes=10, image_size=32, channels=3)
    stem = network.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(network.get_submodule("maxpool"), nn.Identity)
    assert count.multiply_adds(network, channels=3, image_size=32) == 555_422_720  # 0.56 G, as is usual for CIFAR


def test_above_64_pixels_the_stem_is_torchvisions() -> None:
    with torch.device("meta"):
        stem = build("torchvision/resnet18", classes=10, image_size=65, channels=3).get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert stem.stride == (2, 2)


def test_a_stem_for_other_channels_answers_as_widely_as_the_old_one() -> None:
    torch.manual_seed(0)
    spread = {}
    for channels in (1, 3, 12):
        network = build("torchvision/squeezenet1_1", classes=2, image_size=96, channels=channels)
        with torch.inference_mode():
            spread[channels] = float(network.get_submodule("features.0")(torch.randn(8, channels, 96, 96)).std())
    assert spread[1] == pytest.approx(spread[3], rel=0.2)
    assert spread[12] == pytest.approx(spread[3], rel=0.2)


@pytest.mark.parametrize(
    ("name", "side", "tokens"),
    [
        ("vit_b_16", 224, 14 * 14),
        ("vit_b_16", 96, 6 * 6),
        ("vit_b_16", 32, 16 * 16),
        ("vit_b_32", 32, 8 * 8),
        ("vit_b_16", 28, 14 * 14),
        ("vit_b_16", 8, 8 * 8),
        ("vit_h_14", 518, 37 * 37),
    ],
)
def test_the_patches_of_a_vit_shrink_with_the_image(name: str, side: int, tokens: int) -> None:
    with torch.device("meta"):
        network = build(f"torchvision/{name}", classes=10, image_size=side, channels=3)
    assert network.get_parameter("encoder.pos_embedding").shape[1] == tokens + 1


@pytest.mark.parametrize(("side", "window"), [(32, 2), (48, 3), (64, 4), (224, 7), (256, 8), (448, 7)])
def test_the_windows_of_a_maxvit_fit_the_image(side: int, window: int) -> None:
    with torch.device("meta"):
        network = build("torchvision/maxvit_t", classes=10, image_size=side, channels=3)
    assert network.partition_size == window


@pytest.mark.parametrize(
    ("name", "side", "hint"), [("vit_b_16", 61, "multiple of 16, such as 64"), ("maxvit_t", 40, "32, 48 or 64")]
)
def test_a_side_that_cannot_be_divided_is_refused_with_one_that_can(name: str, side: int, hint: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        build(f"torchvision/{name}", classes=10, image_size=side, channels=3)
    assert f"{side}x{side}" in raised.value.detail
    assert hint in raised.value.hint
