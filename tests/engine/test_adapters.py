"""From any student's map to any teacher's shape, learning on the way."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import SwinTransformer, VisionTransformer

import models
from distillery.errors import InvalidRequest
from engine.adapters import Norm, adapter
from engine.fitting import Feature, survey
from engine.taps import tapped

RATIOS = [
    (8, 8),
    (8, 4),
    (4, 8),
    (16, 4),
    (4, 16),
    (9, 3),
    (3, 9),
    (7, 4),
    (4, 7),
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 7),
    (7, 1),
]
"""Sides of the student's and the teacher's map."""


def made(ours, theirs, *, signed=True, channels=(3, 5)):
    torch.manual_seed(0)
    return adapter(Feature(channels[0], ours, signed=True), Feature(channels[1], theirs, signed=signed))


def maps(size, *, batch=4, channels=3, seed=1):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def kinds(network):
    return [type(layer) for layer in network]


@pytest.mark.parametrize(("ours", "theirs"), RATIOS)
@pytest.mark.parametrize("channels", [(3, 5), (5, 3), (4, 4), (1, 1)])
def test_every_ratio_gives_the_shape_of_the_teacher(ours, theirs, channels):
    found = made(ours, theirs, channels=channels)(maps(ours, channels=channels[0]))
    assert found.shape == (4, channels[1], theirs, theirs)


@pytest.mark.parametrize(("ours", "theirs"), RATIOS)
@pytest.mark.parametrize("signed", [True, False])
def test_every_adapter_learns(ours, theirs, signed):
    network, student = made(ours, theirs, signed=signed), maps(ours)
    teacher = functional.adaptive_avg_pool2d(student, theirs)[:, [0, 1, 2, 0, 1]] + 1
    teacher = teacher if signed else teacher.relu()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []
    for _ in range(25):
        loss = functional.mse_loss(network(student), teacher)
        optimizer.zero_grad()
        loss.backward()
        assert all(bool(each.grad.isfinite().all()) for each in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(("ours", "theirs"), RATIOS)
def test_the_student_is_taught_through_every_adapter(ours, theirs):
    student = maps(ours).requires_grad_()
    made(ours, theirs)(student).square().mean().backward()
    assert bool(student.grad.isfinite().all())
    # In the middle: a stride of two leaves no pixel out.
    assert bool((student.grad.abs().amax(dim=(0, 1)) > 0).all())


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (8, 8, [nn.Conv2d]),
        (8, 4, [nn.Conv2d]),
        (4, 8, [nn.ConvTranspose2d]),
        (12, 4, [nn.AdaptiveAvgPool2d, nn.Conv2d]),
        (4, 12, [nn.Upsample, nn.Conv2d]),
    ],
)
def test_each_ratio_has_its_layers(ours, theirs, expected):
    assert kinds(made(ours, theirs)) == [*expected, Norm]


def test_equal_sizes_take_a_kernel_of_one_pixel_and_double_ones_a_stride_of_two():
    assert (made(8, 8)[0].kernel_size, made(8, 8)[0].stride) == ((1, 1), (1, 1))
    assert (made(8, 4)[0].kernel_size, made(8, 4)[0].stride) == ((3, 3), (2, 2))
    assert (made(4, 8)[0].kernel_size, made(4, 8)[0].stride) == ((4, 4), (2, 2))


def test_only_a_rectified_teacher_has_a_rectified_adapter():
    assert kinds(made(8, 8, signed=False)) == [nn.Conv2d, Norm, nn.ReLU]
    assert bool((made(8, 8, signed=False)(maps(8)) >= 0).all())
    assert bool((made(8, 8, signed=True)(maps(8)) < 0).any())


def test_with_weights_of_one_an_adapter_passes_normalised_maps_through():
    network, student = made(4, 4, channels=(3, 3)), maps(4)
    student = functional.batch_norm(student, None, None, training=True, eps=1e-12)
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)[:, :, None, None])
    torch.testing.assert_close(network(student), student, atol=1e-4, rtol=1e-4)


def test_maps_of_zeros_have_a_finite_gradient():
    for ours, theirs in RATIOS:
        network, student = made(ours, theirs), torch.zeros(2, 3, ours, ours, requires_grad=True)
        network(student).sub(1).square().mean().backward()
        assert bool(student.grad.isfinite().all())
        assert all(bool(each.grad.isfinite().all()) for each in network.parameters())


def test_a_single_image_with_maps_of_one_pixel_is_refused_in_training():
    with pytest.raises(InvalidRequest, match="single image cannot train an adapter") as caught:
        made(1, 1)(maps(1, batch=1))
    assert caught.value.pointer == "/training/batch_size"
    with pytest.raises(InvalidRequest, match="single image"):
        made(4, 1)(maps(4, batch=1))


def test_a_single_image_is_enough_where_its_map_has_several_pixels_or_nothing_is_trained():
    assert made(4, 4)(maps(4, batch=1)).shape == (1, 5, 4, 4)
    assert made(1, 1)(maps(1, batch=2)).shape == (2, 5, 1, 1)
    assert made(1, 1).eval()(maps(1, batch=1)).shape == (1, 5, 1, 1)


def resnet():
    return models.build("resnet8", classes=10, image_size=16, channels=3), ("layer1", "layer2", "layer3")


def wide():
    return models.build("resnet8x4", classes=10, image_size=16, channels=3), ("layer1", "layer2", "layer3")


def vit():
    network = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)
    return network, ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1")


def swin():
    network = SwinTransformer([2, 2], embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=10)
    return network, ("features.1", "features.3")


@pytest.mark.parametrize("teacher", [resnet, wide, vit, swin])
@pytest.mark.parametrize("student", [resnet, vit, swin])
def test_any_layer_of_one_kind_of_network_reaches_any_layer_of_another(student, teacher):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    ours, theirs = ((network, survey(network, images, stages=stages)) for network, stages in (student(), teacher()))
    read = tapped(ours[0], images, tuple(ours[1].features)).features
    for layer, feature in ours[1].features.items():
        for wanted in theirs[1].features.values():
            found = adapter(feature, wanted)(read[layer])
            assert found.shape == (2, wanted.channels, wanted.size, wanted.size)
            assert wanted.signed or bool((found >= 0).all())
