"""The counter against arithmetic done by hand, and what it must leave alone."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import build, count

SEED_STUDENT_MACS = (
    32 * 32 * 3 * 32 * 9 + 16 * 16 * 32 * 64 * 9 + 8 * 8 * 64 * 128 * 9  # convolutions at 32, 16 and 8 pixels
    + 2048 * 256 + 256 * 10
)  # fmt: skip


@pytest.mark.parametrize(
    ("network", "by_hand"),
    [
        (nn.Conv2d(3, 8, 5, stride=2, padding=2), 4 * 4 * 8 * 3 * 25),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), 8 * 8 * 8 * 1 * 9),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), 8 * 8 * 3 * 8 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), 192 * 7),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Softmax(1)), 0),
    ],
    ids=["strided", "grouped", "transposed", "linear", "nothing to count"],
)
def test_layers_count_as_by_hand(network: nn.Module, by_hand: int) -> None:
    channels = 4 if isinstance(network, nn.Conv2d) and network.groups > 1 else 3
    assert count.multiply_adds(network, channels=channels, image_size=8) == by_hand


class Attention(nn.Module):
    """64 tokens of 3 numbers that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        attended: torch.Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return attended


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_counts_its_projections_and_both_products(frozen: bool) -> None:
    network = Attention().requires_grad_(not frozen)
    projections, products = 4 * 64 * 3 * 3, 2 * 64 * 64 * 3
    assert count.multiply_adds(network, channels=3, image_size=8) == projections + products


def test_the_seed_student_counts_as_by_hand() -> None:
    student = build("seed_student", classes=10, image_size=32, channels=3)
    assert count.multiply_adds(student, channels=3, image_size=32) == SEED_STUDENT_MACS


def test_counting_leaves_weights_statistics_and_modes_alone() -> None:
    network = build("resnet8", classes=10, image_size=32, channels=3).train()
    network.get_submodule("layer2").eval()
    weights = {name: each.clone() for name, each in network.state_dict().items()}
    modes = [module.training for module in network.modules()]

    count.multiply_adds(network, channels=3, image_size=32)

    assert all(torch.equal(each, weights[name]) for name, each in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize("name", ["torchvision/swin_t", "torchvision/vit_b_32", "torchvision/resnet18"])
def test_the_count_does_not_depend_on_inference_mode_or_precision(name: str) -> None:
    with torch.device("meta"):
        network = build(name, classes=10, image_size=32, channels=3)
    outside = count.multiply_adds(network, channels=3, image_size=32)
    with torch.inference_mode():
        assert count.multiply_adds(network, channels=3, image_size=32) == outside
    assert count.multiply_adds(network.to(torch.bfloat16), channels=3, image_size=32) == outside


def test_the_count_agrees_with_pytorchs_own_counter_over_a_real_forward() -> None:
    network = build("torchvision/swin_t", classes=10, image_size=32, channels=3).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 32, 32))
    assert count.multiply_adds(network, channels=3, image_size=32) == counter.get_total_flops() // 2


def test_shared_and_frozen_parameters_count_once() -> None:
    layer = nn.Linear(3, 3)
    layer.requires_grad_(False)
    assert count.parameters(nn.Sequential(layer, layer, nn.BatchNorm2d(3))) == 12 + 6
