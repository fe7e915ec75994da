"""Optimizers step as their formulas say, and schedules are pure functions of the step."""

import math

import pytest
import torch
from torch import nn

from distillery.spec.training import AdamW, ConstantSchedule, CosineSchedule, Sgd, StepSchedule
from engine.optim import optimizer, schedule


def steps(spec, gradients, *, start=1.0):
    weight = nn.Parameter(torch.full((5,), start, dtype=torch.float64))
    stepping = optimizer(spec, [weight])
    for gradient in gradients:
        weight.grad = torch.full((5,), gradient, dtype=torch.float64)
        stepping.step()
    (value,) = set(weight.tolist())
    return value


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_sgd_follows_its_formula(momentum, nesterov):
    spec = Sgd(lr=0.1, momentum=momentum, weight_decay=0.01, nesterov=nesterov)
    weight, velocity = 1.0, None
    for gradient in (0.3, -0.2, 0.5):
        full = gradient + 0.01 * weight
        velocity = full if velocity is None else momentum * velocity + full
        weight -= 0.1 * (full + momentum * velocity if nesterov else velocity)
    assert steps(spec, (0.3, -0.2, 0.5)) == pytest.approx(weight, rel=1e-12)


def test_adamw_follows_its_formula():
    spec = AdamW(lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    weight, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.2, 0.5), start=1):
        weight *= 1 - 0.01 * 0.1
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        weight -= 0.01 * (first / (1 - 0.8**step)) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
    assert steps(spec, (0.3, -0.2, 0.5)) == pytest.approx(weight, rel=1e-9)


def test_weight_decay_reaches_every_parameter_and_frozen_ones_are_left_out():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    network[2].bias.requires_grad_(False)
    (group,) = optimizer(Sgd(weight_decay=5e-4), network.parameters()).param_groups
    assert len(group["params"]) == 5
    assert group["weight_decay"] == 5e-4


def factors(spec, *, steps_per_epoch=10, epochs=4):
    factor = schedule(spec, steps_per_epoch=steps_per_epoch, epochs=epochs)
    return [factor(step) for step in range(steps_per_epoch * epochs)]


def test_the_cosine_falls_from_one_to_nearly_nothing():
    found = factors(CosineSchedule())
    assert found == [pytest.approx(0.5 * (1 + math.cos(math.pi * step / 40))) for step in range(40)]
    assert found[0] == 1
    assert 0 < found[-1] < 0.002
    assert found == sorted(found, reverse=True)


def test_the_cosine_starts_after_the_warm_up():
    found = factors(CosineSchedule(warmup_epochs=1.5))
    assert found[:15] == [pytest.approx((step + 1) / 15) for step in range(15)]
    assert found[15] == 1
    assert found[15:] == [pytest.approx(0.5 * (1 + math.cos(math.pi * step / 25))) for step in range(25)]


def test_the_step_schedule_drops_at_its_milestones():
    found = factors(StepSchedule(), steps_per_epoch=1, epochs=240)
    expected = [1.0] * 150 + [0.1] * 30 + [0.01] * 30 + [0.001] * 30
    assert found == pytest.approx(expected)


def test_the_constant_schedule_is_constant_after_its_warm_up():
    assert factors(ConstantSchedule()) == [1.0] * 40
    assert factors(ConstantSchedule(warmup_epochs=0.4))[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("spec", [CosineSchedule(), StepSchedule(), ConstantSchedule()])
def test_a_warm_up_longer_than_the_run_only_rises(spec):
    longer = spec.model_copy(update={"warmup_epochs": 1000.0})
    assert all(0 < factor <= 1 for factor in factors(longer))


@pytest.mark.parametrize("spec", [CosineSchedule(), StepSchedule(), ConstantSchedule()])
def test_a_run_of_one_step_learns(spec):
    assert factors(spec, steps_per_epoch=1, epochs=1) == [1.0]


@pytest.mark.parametrize("spec", [Sgd(lr=0.1, weight_decay=0.01), AdamW(lr=0.01)])
def test_an_optimizer_does_to_the_bit_what_torchs_own_does(spec):
    """Ours are torch's without their guards against torch.compile: with the same hooks, states and gradients kept."""
    ours, theirs = (nn.Linear(7, 5) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    own = optimizer(spec, ours.parameters())
    kind, options = type(own).__mro__[2], {name: own.defaults[name] for name in ("lr", "weight_decay")}
    assert kind in (torch.optim.SGD, torch.optim.AdamW)
    if isinstance(spec, Sgd):
        options |= {"momentum": spec.momentum, "nesterov": spec.nesterov}
    other = kind(theirs.parameters(), fused=True, **options)
    hooked = []
    own.register_step_post_hook(lambda *_: hooked.append(torch.is_grad_enabled()))
    for seed in range(3):
        for network, stepping in ((ours, own), (theirs, other)):
            stepping.zero_grad()
            images = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
            network(images).square().sum().backward()
            stepping.step()
    assert hooked == [True] * 3
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(each.requires_grad and each.is_leaf for each in ours.parameters())
    kept, expected = own.state_dict(), other.state_dict()
    assert kept["param_groups"] == expected["param_groups"]
    assert all(
        torch.equal(kept["state"][key][name], value)
        for key, state in expected["state"].items() for name, value in state.items()
    )  # fmt: skip
    again = optimizer(spec, ours.parameters())
    again.load_state_dict(expected)
    assert again.state_dict()["state"].keys() == expected["state"].keys()
