"""How a run tells that it goes on, whatever it is doing."""

import pytest
import torch
from torch import nn

from distillery.spec.methods import DataFreeMethod
from distillery.spec.objectives import CrossEntropyTerm, SoftTargetsTerm
from distillery.spec.training import Training
from engine.loop import train
from engine.loop_state import LoopState
from engine.objectives import build
from engine.pace import Clock
from engine.strategies.data_free import DataFree
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher

RECIPE = Training(epochs=1, batch_size=16, seed=5, device="cpu", precision="fp32")


@pytest.fixture(autouse=True)
def _told_at_every_occasion(monkeypatch):
    monkeypatch.setattr("engine.pace.PROGRESS_SECONDS", 0.0)


def test_it_is_told_between_two_portions_of_validation_that_the_run_goes_on(
    small_dataset, small_network, listener, monkeypatch
):
    monkeypatch.setattr("engine.loop.VALIDATION_IMAGES", 10)
    observer = listener()
    lesson = Offline(small_network(), objective=build((CrossEntropyTerm(weight=1.0),)), teacher=None)
    train(lesson, dataset=small_dataset, recipe=RECIPE, augment=(), observer=observer)
    told = [each for each in observer.told if each["step"] == 5]
    assert len(told) == 1 + 5 + 1, "the last step, five portions of 41 images, and the end"
    assert all(each["images_per_second"] > 0 for each in told), "validation does not hide how fast it trains"


def test_it_is_told_while_images_are_made_up(small_dataset, small_network, listener):
    method = DataFreeMethod(synthesis={"name": "fast", "synthesis_batches": 3, "synthesis_steps": 4, "pool": 64})
    observer = listener()
    lesson = DataFree(
        small_network(seed=1),
        objective=build((SoftTargetsTerm(weight=1.0),)),
        teacher=FrozenTeacher(small_network(seed=2)),
        method=method.model_copy(update={"steps_per_epoch": 2}),
        classes=3,
        channels=1,
        image_size=8,
        mean=small_dataset.mean,
        std=small_dataset.std,
    )
    train(lesson, dataset=small_dataset, recipe=RECIPE, augment=(), observer=observer)
    before = [each for each in observer.told if each["step"] == 0]
    assert len(before) == 1 + 3 * 4, "the start, and four steps for each of three batches"


def state():
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1)
    return LoopState(network, nn.Module(), optimizer, [], torch.device("cpu"), torch.contiguous_format)


def test_what_is_no_training_does_not_count_as_such():
    told, kept = [], state()
    clock = Clock(kept, save_seconds=60, tell=told.append)
    clock.pause()
    assert told == [None]
    assert kept.training_seconds == 0
    assert clock.count(8)
    trained = kept.training_seconds
    clock.pause()
    assert kept.training_seconds == trained
    assert told[1] > 0
    assert told[2] == told[1], "nothing was trained since"
    assert kept.seconds > trained
