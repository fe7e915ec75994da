"""A run that is stopped or killed and taken up again equals one that never stopped, bit for bit."""

import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillery.errors import CorruptFile
from distillery.spec.presets import PRESETS
from distillery.spec.training import AdamW, CheckpointEvery, Sgd, Training
from engine import checkpoint
from engine.loop import Stopped, train
from engine.objectives import build
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, state_sha256

OPTIMIZERS = {"sgd": Sgd(nesterov=True), "adamw": AdamW()}
RECIPES = {
    name: Training(
        epochs=4,
        batch_size=5,  # 14 steps an epoch, of which every second is told
        seed=11,
        device="cpu",
        precision="fp32",
        optimizer=optimizer,
        schedule={"name": "cosine", "warmup_epochs": 0.5},
        clip_grad_norm=1.0,
    )
    for name, optimizer in OPTIMIZERS.items()
}
STEPS = 4 * 14


@pytest.fixture
def attempt(small_dataset, small_network):
    """One attempt at the run, in a process that has done other things before."""

    def start(observer, *, resume=None, recipe):
        network = small_network(seed=1 if resume is None else 1000)
        teacher = FrozenTeacher(small_network(seed=2, width=8))
        torch.manual_seed(random.randrange(2**32))
        trained = train(
            Offline(network, objective=build(PRESETS["kd"]), teacher=teacher),
            dataset=small_dataset,
            recipe=recipe,
            augment=("crop", "flip"),
            observer=observer,
            resume=resume,
        )
        return trained, state_sha256(network)

    return start


def finished(attempt, listener, *, recipe, stops=()):
    """Run to the end, stopped after each of the given numbers of looks; the state passes through files alone."""
    resume = None
    for looks in stops:
        observer = listener(stop_when=lambda seen, looks=looks: seen >= looks)
        try:
            return attempt(observer, resume=resume, recipe=recipe)
        except Stopped:
            path, sha256 = observer.files[-1]
            resume = checkpoint.load(path, sha256=sha256)
    return attempt(listener(), resume=resume, recipe=recipe)


def comparable(trained):
    curves = {name: curve for name, curve in trained.history.items() if name != "images_per_second"}
    best, last = (
        {name: each.numpy().tobytes() for name, each in weights.items()} for weights in (trained.best, trained.last)
    )
    return curves, best, last, trained.best_epoch, trained.best_validation, trained.last_validation, trained.steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_stopped_at_a_random_step_equals_an_uninterrupted_one(attempt, listener, name):
    whole, sha256 = finished(attempt, listener, recipe=RECIPES[name])
    draw = random.Random(name)
    for look in [1, 14, 15, *draw.sample(range(2, STEPS), 5)]:
        parted, found = finished(attempt, listener, recipe=RECIPES[name], stops=[look])
        assert found == sha256, f"stopped at look {look}"
        assert comparable(parted) == comparable(whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_stopped_many_times_equals_an_uninterrupted_one(attempt, listener, name):
    whole, sha256 = finished(attempt, listener, recipe=RECIPES[name])
    draw = random.Random(name)
    parted, found = finished(attempt, listener, recipe=RECIPES[name], stops=[draw.randint(1, 9) for _ in range(8)])
    assert found == sha256
    assert comparable(parted) == comparable(whole)


def test_a_run_stopped_at_every_step_equals_an_uninterrupted_one(attempt, listener):
    recipe = RECIPES["sgd"].model_copy(update={"epochs": 1})
    whole, sha256 = finished(attempt, listener, recipe=recipe)
    parted, found = finished(attempt, listener, recipe=recipe, stops=[1] * 13)
    assert found == sha256
    assert comparable(parted) == comparable(whole)


def test_a_finished_run_taken_up_again_has_nothing_left_to_do(attempt, listener):
    observer = listener()
    whole, sha256 = attempt(observer, recipe=RECIPES["sgd"])
    path, file_sha256 = observer.files[-1]
    idle = listener()
    again, found = attempt(idle, resume=checkpoint.load(path, sha256=file_sha256), recipe=RECIPES["sgd"])
    assert found == sha256
    assert comparable(again) == comparable(whole)
    assert idle.looks == 0


def test_seconds_and_speed_are_those_of_all_attempts(attempt, listener):
    parted, _ = finished(attempt, listener, recipe=RECIPES["sgd"], stops=[20])
    (file,) = (path for path in listener().folder.iterdir() if path.name.startswith("0-"))
    first = checkpoint.load(file, sha256=None)
    assert 0 < first["training_seconds"] < first["seconds"] < parted.seconds
    assert parted.images_per_second > 0


def test_without_the_random_state_a_resumed_run_is_another_one(attempt, listener):
    """Guards the tests above: with dropout they could not pass by accident."""
    _, sha256 = finished(attempt, listener, recipe=RECIPES["sgd"])
    observer = listener(stop_when=lambda looks: looks == 20)
    with pytest.raises(Stopped):
        attempt(observer, recipe=RECIPES["sgd"])
    path, _ = observer.files[-1]
    state = checkpoint.load(path, sha256=None)
    state["rng"] = torch.Generator().manual_seed(0).get_state()
    assert attempt(listener(), resume=state, recipe=RECIPES["sgd"])[1] != sha256


MORTAL = Path(__file__).with_name("mortal_run.py")


def test_a_killed_process_is_taken_up_by_another_one(tmp_path):
    run = runpy.run_path(str(MORTAL))["run"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    die_at = random.Random(4).randint(2, 20)
    killed = subprocess.run([sys.executable, MORTAL, parted, str(die_at)], cwd=MORTAL.parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert list(parted.glob("*.ckpt"))
    assert run(parted) == run(whole)


def test_a_damaged_checkpoint_is_not_taken_up(attempt, listener):
    observer = listener(stop_when=lambda looks: looks == 3)
    with pytest.raises(Stopped):
        attempt(observer, recipe=RECIPES["sgd"].model_copy(update={"checkpoint_every": CheckpointEvery(epochs=4)}))
    path, sha256 = observer.files[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile):
        checkpoint.load(path, sha256=sha256)
