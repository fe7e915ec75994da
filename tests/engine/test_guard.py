"""Steps that are not finite are left out as if they had never been asked for; too many of them end the run."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from distillery.errors import TrainingDiverged
from distillery.spec.objectives import CrossEntropyTerm
from distillery.spec.training import AdamW, CheckpointEvery, Sgd, Training
from engine import checkpoint, guard
from engine.data.views import batches
from engine.loop import Stopped, train
from engine.objectives import Objective, build
from engine.strategies.offline import Offline
from engine.teachers import state_sha256

OPTIMIZERS = {
    "sgd": Sgd(lr=0.02),
    "nesterov": Sgd(lr=0.02, nesterov=True),
    "plain": Sgd(lr=0.02, momentum=0, weight_decay=0),
    "adamw": AdamW(),
}
STEPS = 5
"""Of an epoch over 70 images in batches of 16."""


def recipe(**changes):
    plain = {"epochs": 3, "batch_size": 16, "seed": 5, "device": "cpu", "precision": "fp32", "schedule": "constant"}
    return Training(**(plain | changes))


class Faulty(nn.Module):
    """Cross-entropy that is spoilt at the given steps: its value, or its gradient alone."""

    name, needs_teacher = "faulty", False

    def __init__(self, steps, *, gradient_only=False, value=math.nan):
        super().__init__()
        self.steps, self.gradient_only, self.value = set(steps), gradient_only, value
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, student, teacher, batch):
        self.seen += 1
        loss = functional.cross_entropy(student.logits, batch.labels)
        if int(self.seen) in self.steps:
            if self.gradient_only:
                student.logits.register_hook(lambda gradient: gradient * self.value)
            else:
                loss = loss * self.value
        return {self.name: loss}


@pytest.fixture
def run(small_dataset, small_network, listener):
    """Trains the small network under a term that fails at some steps; gives what came of it, weights and observer."""

    def start(steps, *, observer=None, resume=None, gradient_only=False, value=math.nan, **changes):
        observer = observer or listener()
        network = small_network(seed=1)
        faulty = Faulty(steps, gradient_only=gradient_only, value=value)
        trained = train(
            Offline(network, objective=Objective([faulty], weights={"faulty": 1.0}), teacher=None),
            dataset=small_dataset,
            recipe=recipe(**changes),
            augment=(),
            observer=observer,
            resume=resume,
        )
        return trained, state_sha256(network), observer

    return start


def by_hand(network, dataset, *, optimizer, left_out):
    """The loop that one would write, which passes over the steps that are left out."""
    torch.manual_seed(5)
    network.to(memory_format=torch.channels_last).train()
    step = 0
    for epoch in range(3):
        for batch in batches(
            dataset.train, batch_size=16, seed=5, epoch=epoch, augment=(), mean=dataset.mean, std=dataset.std,
            channels_last=True,
        ):  # fmt: skip
            step += 1
            loss = functional.cross_entropy(network(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            if step not in left_out:
                optimizer.step()
    return network


def made(spec, parameters):
    if isinstance(spec, AdamW):
        return torch.optim.AdamW(
            parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True
        )  # fmt: skip
    return torch.optim.SGD(
        parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov,
        fused=True,
    )  # fmt: skip


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("left_out", [{1}, {7}, {1, 2, 3, 9}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_left_out_changes_nothing(run, small_network, small_dataset, name, left_out, gradient_only):
    trained, _, observer = run(left_out, optimizer=OPTIMIZERS[name], gradient_only=gradient_only)
    network = small_network(seed=1)
    expected = by_hand(
        network, small_dataset, optimizer=made(OPTIMIZERS[name], network.parameters()), left_out=left_out
    ).state_dict()
    for key, each in trained.last.items():
        assert torch.equal(each, expected[key]), key
    assert trained.history["skipped_steps"][-1][1] == len(left_out)
    assert len(observer.warnings) >= 1


def test_the_user_is_told_which_steps_were_left_out_and_how_many(run):
    trained, _, observer = run({3, 4, 22}, epochs=6, checkpoint_every=CheckpointEvery(seconds=1e-9))
    first, second, third = observer.warnings
    assert "not finite at step 3: nothing was learned from it" in first
    assert "at step 4:" in second
    assert "at step 22:" in third
    assert "so far: 3; with more than 10" in third
    assert trained.history["skipped_steps"] == [(3, 1.0), (4, 2.0), (22, 3.0)]
    assert observer.series == trained.history


def test_several_steps_between_two_told_values_are_told_at_once(run):
    trained, _, observer = run({31, 33, 35}, batch_size=1, epochs=1)  # 70 steps, of which every seventh is told
    assert ["at steps 31, 33, 35:" in message for message in observer.warnings] == [True]
    assert trained.history["skipped_steps"] == [(35, 3.0)]


def test_means_are_over_the_steps_that_were_not_left_out(run):
    whole, _, _ = run((), batch_size=1, epochs=1)
    short, _, _ = run({1}, batch_size=1, epochs=1)
    assert short.history["loss"][0][0] == 7
    assert all(math.isfinite(value) for curve in short.history.values() for _, value in curve)
    assert [step for step, _ in short.history["loss"]] == [step for step, _ in whole.history["loss"]]


def test_where_all_steps_of_a_window_were_left_out_there_is_no_mean(run):
    trained, _, _ = run({2}, epochs=1)
    assert [step for step, _ in trained.history["loss"]] == [1, 3, 4, 5]
    assert [step for step, _ in trained.history["grad_norm"]] == [1, 3, 4, 5]
    assert [step for step, _ in trained.history["lr"]] == [1, 2, 3, 4, 5]


def test_without_bad_steps_nothing_is_told_of_them(run):
    trained, _, observer = run(())
    assert observer.warnings == []
    assert "skipped_steps" not in trained.history


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [1, 2, 8])
def test_more_bad_steps_than_are_left_out_end_the_run_and_name_the_first(run, listener, first, value):
    observer = listener()
    with pytest.raises(TrainingDiverged, match=rf"at step {first} \(epoch {(first - 1) // STEPS + 1} of 9\)"):
        run(
            range(first, 100), observer=observer, value=value, epochs=9,
            checkpoint_every=CheckpointEvery(seconds=1e-9),
        )  # fmt: skip
    last = observer.states[-1]
    assert first + 9 <= last["step"] + 1 <= first + guard.SKIPPED_STEPS
    for part in ("network", "objective"):
        assert all(bool(each.isfinite().all()) for each in last[part].values())


def test_exactly_as_many_as_are_left_out_do_not_end_it(run):
    trained, _, _ = run(range(3, 3 + guard.SKIPPED_STEPS), epochs=9)
    assert trained.history["skipped_steps"][-1][1] == guard.SKIPPED_STEPS
    with pytest.raises(TrainingDiverged, match=r"at 10 more up to step 13, .* At most 10 such steps"):
        run(range(3, 4 + guard.SKIPPED_STEPS), epochs=9)


def test_a_short_run_that_mostly_fails_has_diverged(run):
    with pytest.raises(TrainingDiverged, match="At most 2 such steps"):
        run(range(1, 6), epochs=1)
    with pytest.raises(TrainingDiverged, match="At most 0 such steps"):
        run({1}, epochs=1, batch_size=70)


def test_a_long_stretch_of_bad_steps_is_noticed_before_the_next_value_is_told(run, listener, monkeypatch):
    """About once a second, here at every step."""
    monkeypatch.setattr("engine.pace.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("engine.loop.LOGS_PER_EPOCH", 1)
    observer = listener()
    with pytest.raises(TrainingDiverged, match=r"step 4 .* up to step 14"):
        run(range(4, 200), observer=observer, batch_size=1, epochs=1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("look", [2, 3, 4, 31])
def test_a_run_stopped_around_a_bad_step_equals_an_uninterrupted_one(run, listener, name, look):
    """Steps 1, 3, 31 and 33 are bad; in an epoch of 70 steps the window holds some of them when it is stopped."""
    options = {"batch_size": 2, "optimizer": OPTIMIZERS[name], "epochs": 2}
    steps = {1, 3, 31, 33}
    whole, sha256, _ = run(steps, **options)
    observer = listener(stop_when=lambda looks: looks == look)
    with pytest.raises(Stopped):
        run(steps, observer=observer, **options)
    path, file_sha256 = observer.files[-1]
    parted, found, _ = run(steps, resume=checkpoint.load(path, sha256=file_sha256), **options)
    assert found == sha256
    assert {**parted.history, "images_per_second": 0} == {**whole.history, "images_per_second": 0}


def test_steps_left_out_before_a_stop_still_count_after_it(run, listener):
    observer = listener(stop_when=lambda looks: looks == 8)
    with pytest.raises(Stopped):
        run(range(2, 8), observer=observer, epochs=9)
    state = checkpoint.load(observer.files[-1][0], sha256=None)
    assert state["skipped"] == (2, 3, 4, 5, 6, 7)
    with pytest.raises(TrainingDiverged, match=r"step 2 .* 10 more up to step 15"):
        run({*range(2, 8), *range(11, 40)}, resume=state, epochs=9)


def test_at_a_lower_rate_they_do_not(run, listener):
    observer = listener(stop_when=lambda looks: looks == 8)
    with pytest.raises(Stopped):
        run(range(2, 8), observer=observer, epochs=9, optimizer=Sgd(lr=0.02))
    state = checkpoint.load(observer.files[-1][0], sha256=None)
    again = {"steps": range(11, 21), "resume": state, "epochs": 9, "optimizer": Sgd(lr=0.01)}
    trained, _, lowered = run(**again)
    assert trained.history["skipped_steps"][-1] == (20, 16.0)
    assert trained.history["lr"][0] == (1, 0.02)
    assert trained.history["lr"][-1] == (45, 0.01)
    assert "so far: 10;" in lowered.warnings[-1]
    with pytest.raises(TrainingDiverged, match=r"step 11 .* up to step 21"):
        run(**again | {"steps": range(11, 40)})


def test_what_was_saved_before_steps_could_be_left_out_is_taken_up(run, listener):
    _, sha256, _ = run(())
    observer = listener(stop_when=lambda looks: looks == 8)
    with pytest.raises(Stopped):
        run((), observer=observer)
    state = checkpoint.load(observer.files[-1][0], sha256=None)
    for name in ("skipped", "pardoned", "learning_rate"):
        del state[name]
    assert run((), resume=state)[1] == sha256


class InfiniteAt(nn.Module):
    """What passes through is infinite at one training step."""

    def __init__(self, step):
        super().__init__()
        self.step, self.seen = step, 0

    def forward(self, x):
        self.seen += self.training
        return x + math.inf if self.training and self.seen == self.step else x


def test_running_statistics_that_are_spoilt_end_the_run(small_dataset, listener):
    """The step is left out, but its forward pass cannot be taken back: the network could not be used any more."""
    observer = listener()
    network = nn.Sequential(InfiniteAt(7), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(TrainingDiverged, match="a weight was not finite at step 7"):
        train(
            Offline(network, objective=build([CrossEntropyTerm(weight=1.0)]), teacher=None),
            dataset=small_dataset,
            recipe=recipe(checkpoint_every=CheckpointEvery(seconds=1e-9)),
            augment=(),
            observer=observer,
        )
    assert observer.states[-1]["step"] == 6
    assert all(bool(each.isfinite().all()) for each in observer.states[-1]["network"].values())
