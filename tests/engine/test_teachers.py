"""The teacher is frozen: whatever happens around it, it answers the same and stays the same."""

import pytest
import torch
from torch import nn

from distillery.spec.presets import PRESETS
from distillery.spec.training import Training
from engine.data.views import batches
from engine.loop import train
from engine.objectives import build
from engine.precision import autocast
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, state_sha256


@pytest.fixture
def batch(small_dataset):
    read = batches(
        small_dataset.train,
        batch_size=16,
        seed=0,
        epoch=0,
        augment=(),
        mean=small_dataset.mean,
        std=small_dataset.std,
        channels_last=True,
    )
    return next(read)


def test_it_answers_without_a_gradient(small_network, batch):
    answers = FrozenTeacher(small_network()).knowledge(batch)
    assert answers.logits.shape == (16, 3)
    assert not answers.logits.requires_grad
    assert not answers.logits.is_inference()


def test_it_answers_in_evaluation_mode(small_network, batch):
    network = small_network()
    with torch.no_grad():
        expected = network.eval()(batch.images)
    teacher = FrozenTeacher(network.train())
    first, second = (teacher.knowledge(batch).logits for _ in range(2))
    torch.testing.assert_close(first, expected)
    assert torch.equal(first, second)


WAYS_TO_TELL_IT_TO_TRAIN = {
    "itself": lambda teacher: teacher,
    "a parent": lambda teacher: nn.ModuleList([teacher]),
    "a parent of the network": lambda teacher: nn.ModuleList([teacher.network]),
}


@pytest.mark.parametrize("way", WAYS_TO_TELL_IT_TO_TRAIN)
def test_nothing_flips_it_into_training_mode(small_network, batch, way):
    teacher = FrozenTeacher(small_network())
    before, expected = teacher.state_sha256(), teacher.knowledge(batch).logits
    WAYS_TO_TELL_IT_TO_TRAIN[way](teacher).train()
    assert torch.equal(teacher.knowledge(batch).logits, expected)
    assert not any(module.training for module in teacher.modules())
    assert teacher.state_sha256() == before


def test_none_of_its_parameters_asks_for_a_gradient(small_network):
    assert not any(each.requires_grad for each in FrozenTeacher(small_network()).parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_run_leaves_it_untouched(small_network, small_dataset, listener, precision):
    teacher = FrozenTeacher(small_network(seed=1))
    before = teacher.state_sha256()
    trained = train(
        Offline(small_network(seed=2), objective=build(PRESETS["kd"]), teacher=teacher),
        dataset=small_dataset,
        recipe=Training(epochs=2, batch_size=16, seed=0, device="cpu", precision=precision),
        augment=("crop", "flip"),
        observer=listener(),
    )
    assert teacher.state_sha256() == before
    assert not any("teacher" in name or "network.network" in name for name in trained.best)


def test_under_autocast_it_answers_in_bf16_and_nearly_the_same(small_network, batch):
    teacher = FrozenTeacher(small_network())
    exact = teacher.knowledge(batch).logits
    with autocast(torch.device("cpu"), precision="bf16"):
        found = teacher.knowledge(batch).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05)


def test_the_hash_sees_every_value_and_no_layout(small_network):
    network = small_network(seed=1)
    before = state_sha256(network)
    assert state_sha256(network.to(memory_format=torch.channels_last)) == before
    assert state_sha256(small_network(seed=1)) == before
    assert state_sha256(small_network(seed=2)) != before
    network[1].running_mean[0] += 1e-6
    assert state_sha256(network) != before
    assert state_sha256(nn.Linear(2, 2).bfloat16()) != state_sha256(nn.Linear(2, 2).bfloat16())
