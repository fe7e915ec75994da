"""The parts that make images up: generator, losses against float64 NumPy oracles, hooks, canvas and draws."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from distillery.spec.methods import Dafl, Fast
from engine.data.draws import draws_of
from engine.data.views import Normalisation
from engine.synthesis import SYNTHESISERS, build
from engine.synthesis.batch_norm import MOMENTUM, Moments, blended, distance, listening
from engine.synthesis.canvas import Canvas, pixels
from engine.synthesis.fast import balanced
from engine.synthesis.generator import LARGEST_START, Generator, sides
from engine.synthesis.losses import activation, disagreement, information_entropy, one_hot
from engine.synthesis.synthesiser import verdict
from engine.teachers import EnsembleTeacher, FrozenTeacher, state_sha256

SIZES = (4, 5, 7, 8, 28, 32, 33, 64)


def canvas(*, size=8, channels=1, mean=0.3, classes=3):
    return Canvas(classes=classes, channels=channels, image_size=size, mean=(mean,) * channels, std=(0.4,) * channels)


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_the_generators_images_have_exactly_the_size_asked_for(size, channels):
    images = Generator(latent=5, canvas=canvas(size=size, channels=channels))(torch.randn(2, 5))
    assert images.shape == (2, channels, size, size)
    assert images.dtype == torch.float32
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1


@pytest.mark.parametrize("size", [*SIZES, 224])
def test_the_generator_doubles_the_side_at_least_twice_from_a_small_map(size):
    found = sides(size)
    assert found[-1] == size
    assert len(found) >= 3
    assert 2 <= found[0] <= LARGEST_START
    assert all(small <= large <= 2 * small for small, large in itertools.pairwise(found))


def test_up_to_48_pixels_the_generator_starts_from_a_quarter_rounded_up():
    assert [sides(size)[0] for size in (8, 28, 32, 33, 48)] == [2, 7, 8, 9, 12]
    assert sides(224) == [7, 14, 28, 56, 112, 224]


def test_the_generator_works_for_a_single_image_of_the_smallest_size():
    assert Generator(latent=3, canvas=canvas(size=4))(torch.randn(1, 3)).isfinite().all()


@pytest.mark.parametrize("mean", [0.0, 0.13, 0.5, 1.0])
def test_the_generators_first_images_have_about_the_mean_of_the_data(mean):
    torch.manual_seed(0)
    images = Generator(latent=16, canvas=canvas(size=16, channels=3, mean=mean))(torch.randn(32, 16))
    assert float(images.detach().mean()) == pytest.approx(mean, abs=0.08)


def test_the_generator_keeps_no_statistics_that_could_go_stale():
    generator = Generator(latent=5, canvas=canvas())
    assert not list(generator.buffers())
    latents = torch.randn(4, 5)
    assert torch.equal(generator.train()(latents), generator.eval()(latents))


def test_networks_read_made_up_images_as_they_read_real_ones():
    board = Canvas(classes=2, channels=3, image_size=4, mean=(0.1, 0.5, 0.9), std=(0.2, 1.0, 0.3))
    real = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = Normalisation(mean=board.mean, std=board.std, device=torch.device("cpu"))(real)
    assert torch.allclose(board.normalised(real / 255), expected, atol=1e-6)


def test_normalising_leaves_the_images_alone_and_lets_the_gradient_through():
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    before = images.detach().clone()
    canvas(size=4).normalised(images).sum().backward()
    assert torch.equal(images.detach(), before)
    assert torch.allclose(images.grad, torch.full_like(before, 1 / 0.4))


def test_pixels_are_rounded_and_survive_the_way_there_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels(every / 255), every)
    assert pixels(torch.tensor([0.0, 0.001, 0.0021, 1.0])).tolist() == [0, 0, 1, 255]


def test_draws_depend_on_purpose_and_place_alone():
    def first(*place):
        return torch.rand(4, generator=draws_of(*place)).tolist()

    assert first("a", 1, 2) == first("a", 1, 2)
    others = [first("a", 1, 2), first("b", 1, 2), first("a", 2, 1), first("a", 12), first("a", 1, 3)]
    assert len({tuple(each) for each in others}) == len(others)


@pytest.mark.parametrize(("count", "classes"), [(64, 10), (60, 10), (7, 10), (1, 3), (16, 100)])
def test_classes_are_meant_equally_often(count, classes):
    meant = balanced(count, classes=classes, draws=draws_of("test", count))
    times = meant.bincount(minlength=classes)
    assert len(meant) == count
    assert int(times.max()) <= -(-count // classes)
    assert int(times.sum()) == count
    assert count % classes or set(times.tolist()) == {count // classes}


def test_one_hot_equals_the_formula():
    z = normal(9, 5, scale=3)
    p = softmax(z.numpy())
    assert float(one_hot(z)) == pytest.approx(-np.log(p.max(axis=1)).mean(), abs=1e-9)
    targets = torch.arange(9) % 5
    expected = -np.log(p[np.arange(9), targets.numpy()]).mean()
    assert float(one_hot(z, targets)) == pytest.approx(expected, abs=1e-9)


def test_information_entropy_equals_the_formula():
    z = normal(9, 5, scale=3)
    mean = softmax(z.numpy()).mean(axis=0)
    assert float(information_entropy(z)) == pytest.approx((mean * np.log(mean)).sum(), abs=1e-9)


def test_information_entropy_is_least_when_all_classes_come_up_equally_often():
    sure = 50 * torch.eye(4, dtype=torch.float64)
    assert float(information_entropy(sure)) == pytest.approx(-np.log(4), abs=1e-9)
    assert float(information_entropy(sure[:1].repeat(4, 1))) == pytest.approx(0, abs=1e-9)


def test_a_class_that_never_comes_up_spoils_nothing():
    z = torch.tensor([[0.0, 2000.0, 0.0]], requires_grad=True)
    information_entropy(z).backward()
    assert z.grad.isfinite().all()


def test_activation_equals_the_formula():
    a, b = normal(4, 6, 1, 1, seed=1), normal(4, 3, 1, 1, seed=2)
    expected = -(np.abs(a.numpy()).mean() + np.abs(b.numpy()).mean()) / 2
    assert float(activation([a, b])) == pytest.approx(expected, abs=1e-9)


def test_disagreement_equals_the_formula_and_counts_only_where_both_name_one_class():
    student, teacher = normal(40, 4, seed=1, scale=2), normal(40, 4, seed=2, scale=2)
    p, q = softmax(teacher.numpy()), softmax(student.numpy())
    agree = p.argmax(axis=1) == q.argmax(axis=1)
    assert 0 < agree.sum() < 40
    expected = -((p * np.log(p / q)).sum(axis=1) * agree).mean()
    assert float(disagreement(student, teacher)) == pytest.approx(expected, abs=1e-9)


def test_gradients_of_the_losses_agree_with_finite_differences():
    z, other = normal(4, 5, seed=1).requires_grad_(), normal(4, 5, seed=2)
    for loss in (
        one_hot,
        information_entropy,
        lambda z: activation([z]),
        lambda z: disagreement(z, other),
        lambda z: disagreement(other, z),
    ):
        assert torch.autograd.gradcheck(loss, z)


def test_the_losses_are_computed_in_single_precision_at_least():
    z = normal(4, 5).to(torch.bfloat16)
    for value in (one_hot(z), information_entropy(z), activation([z]), disagreement(z, z)):
        assert value.dtype == torch.float32


def normalising(*widths):
    """Convolutions, each normalised, whose running statistics are not those of a fresh network."""
    torch.manual_seed(0)
    taken, layers = 1, []
    for width in widths:
        norm = nn.BatchNorm2d(width)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        layers += [nn.Conv2d(taken, width, 3, padding=1), norm, nn.ReLU()]
        taken = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(taken * 64, 3)).eval()


def test_the_distance_of_statistics_equals_the_formula():
    network, images = normalising(4, 6).double(), normal(5, 1, 8, 8)
    with listening(network) as heard:
        network(images)
    expected, maps = 0.0, images
    for layer in network[:6]:
        if isinstance(layer, nn.BatchNorm2d):
            x = maps.detach().numpy()
            expected += np.sqrt(((x.mean((0, 2, 3)) - layer.running_mean.numpy()) ** 2).sum())
            expected += np.sqrt(((x.var((0, 2, 3)) - layer.running_var.numpy()) ** 2).sum())
        maps = layer(maps)
    assert len(heard) == 2
    assert float(distance(heard).detach()) == pytest.approx(expected, abs=1e-9)


def test_with_earlier_batches_their_blend_should_come_near():
    found, remembered, past = normal(2, 4, seed=1), normal(2, 4, seed=2), normal(2, 4, seed=3)
    blend = MOMENTUM * past.numpy() + (1 - MOMENTUM) * found.numpy()
    expected = np.sqrt(((blend - remembered.numpy()) ** 2).sum(axis=1)).sum()
    heard = [Moments(found, remembered)]
    assert float(distance(heard, past=[past])) == pytest.approx(expected, abs=1e-9)
    assert np.allclose(blended(heard, past=[past])[0].numpy(), blend)
    assert torch.equal(blended(heard)[0], found)


def test_the_gradient_of_the_distance_reaches_the_images_and_agrees_with_finite_differences():
    network, images = normalising(3).double(), normal(2, 1, 8, 8).requires_grad_()

    def loss(images):
        with listening(network) as heard:
            network(images)
        return distance(heard)

    assert torch.autograd.gradcheck(loss, images)


def test_at_distance_0_the_gradient_is_0_and_not_nan():
    found = normal(2, 3).requires_grad_()
    distance([Moments(found, found.detach().clone())]).backward()
    assert torch.equal(found.grad, torch.zeros_like(found))


def test_the_hooks_are_gone_after_the_block_even_after_an_error():
    network = normalising(3)
    with listening(network):
        assert network[1]._forward_pre_hooks
    assert not network[1]._forward_pre_hooks
    with pytest.raises(RuntimeError), listening(network):
        network(torch.zeros(1, 7, 8, 8))
    assert not network[1]._forward_pre_hooks


def test_without_normalisation_there_is_no_distance():
    for network in (nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))):
        with listening(network) as heard:
            network(torch.randn(2, 1, 8, 8))
        assert heard == []
        assert float(distance(heard)) == 0
        assert blended(heard) == []


def test_a_verdict_says_what_the_network_says_with_a_way_back_to_the_images():
    network = normalising(4, 6)
    images = torch.randn(5, 1, 8, 8, requires_grad=True)
    found = verdict(FrozenTeacher(network), images, embeddings=True, moments=True)
    assert torch.equal(found.logits, network(images))
    assert [each.shape for each in found.embeddings] == [(5, 6 * 64, 1, 1)]
    assert len(found.moments) == 2
    found.logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_verdict_looks_at_nothing_that_nobody_asked_for():
    found = verdict(FrozenTeacher(normalising(4)), torch.randn(2, 1, 8, 8))
    assert not found.embeddings
    assert not found.moments


def test_of_several_teachers_a_verdict_gives_the_mean_probabilities_and_all_that_was_seen():
    networks = [normalising(4), normalising(3, 5)]
    teacher = EnsembleTeacher([FrozenTeacher(each) for each in networks], merge="mean_logits")
    images = torch.randn(5, 1, 8, 8)
    found = verdict(teacher, images, embeddings=True, moments=True)
    mean = torch.stack([each(images).softmax(1) for each in networks]).mean(0)
    assert torch.allclose(found.logits.softmax(1), mean, atol=1e-6)
    assert len(found.embeddings) == 2
    assert len(found.moments) == 3


def test_a_teacher_told_to_train_by_someone_else_still_stays_as_it_is():
    network = normalising(4)
    teacher = FrozenTeacher(network)
    before, expected = state_sha256(network), network(torch.ones(2, 1, 8, 8))
    network.train()
    found = verdict(teacher, torch.ones(2, 1, 8, 8), moments=True)
    assert torch.equal(found.logits, expected)
    assert state_sha256(network) == before
    assert not network.training


@pytest.mark.parametrize("spec", [Dafl(), Fast()])
def test_every_spec_has_its_synthesiser(spec):
    assert len(SYNTHESISERS) == 2
    made = build(spec, canvas=canvas())
    assert made.gallery(4).dtype == torch.uint8
    assert type(made).__name__.lower().startswith(spec.name)
