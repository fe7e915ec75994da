"""A batch in parts teaches what the whole batch does."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distillery.spec.objectives import CrossEntropyTerm, DistTerm, SoftTargetsTerm
from distillery.spec.presets import PRESETS
from distillery.spec.training import AdamW, CheckpointEvery, Sgd, Training
from engine import checkpoint
from engine.data.views import Batch
from engine.loop import Stopped, train
from engine.micro_batches import notice, parted
from engine.objectives import build
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, state_sha256

LABELS = (CrossEntropyTerm(weight=1.0),)


def recipe(**changes):
    plain = {"epochs": 3, "batch_size": 16, "seed": 5, "device": "cpu", "precision": "fp32"}
    return Training(**(plain | changes))


def plain_network(seed=1):
    """Neither batch normalisation nor dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 3)
    )


@pytest.fixture
def run(small_dataset, small_network, listener):
    def start(parts, *, network=None, observer=None, terms=PRESETS["kd"], dataset=small_dataset, **changes):
        resume = changes.pop("resume", None)
        observer = observer or listener()
        lesson = Offline(
            network or plain_network(), objective=build(terms), teacher=FrozenTeacher(small_network(seed=2, width=8))
        )
        trained = train(
            lesson, dataset=dataset, recipe=recipe(**changes), augment=("crop", "flip"), observer=observer,
            resume=resume, micro_batches=parts,
        )  # fmt: skip
        return trained, observer

    return start


def batch_of(rows):
    generator = torch.Generator().manual_seed(rows)
    images = torch.randn(rows, 3, 5, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.arange(rows), torch.arange(rows) + 100)


@pytest.mark.parametrize(
    ("rows", "parts", "sizes"),
    [
        (16, 2, [8, 8]), (16, 4, [4, 4, 4, 4]), (16, 8, [2] * 8), (7, 2, [4, 3]), (7, 8, [3, 2, 2]), (5, 4, [3, 2]),
        (3, 2, [3]), (2, 8, [2]), (1, 2, [1]), (100, 1, [100]),
    ],
)  # fmt: skip
def test_parts_are_of_nearly_one_size_and_none_is_a_single_image(rows, parts, sizes):
    whole = batch_of(rows)
    cut = parted(whole, parts=parts)
    assert [len(each.labels) for each in cut] == sizes
    for name in ("images", "labels", "ids"):
        assert torch.equal(torch.cat([getattr(each, name) for each in cut]), getattr(whole, name))
    assert all(each.images.is_contiguous(memory_format=torch.channels_last) for each in cut)


def test_in_one_part_a_batch_is_left_as_it_is():
    whole = batch_of(4)
    assert parted(whole, parts=1) == (whole,)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.02, nesterov=True), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_the_effective_batch_stays(run, parts, optimizer, clip):
    """The last batch of an epoch has six images: of eight parts, three are left."""
    whole, _ = run(1, optimizer=optimizer, clip_grad_norm=clip)
    in_parts, _ = run(parts, optimizer=optimizer, clip_grad_norm=clip)
    for name, each in in_parts.last.items():
        # AdamW divides by the gradient's size, which makes rounding visible where a gradient is nearly zero.
        assert torch.allclose(each, whole.last[name], rtol=0, atol=1e-6 if isinstance(optimizer, Sgd) else 2e-4), name
    assert in_parts.steps == whole.steps
    for name in ("loss", "loss/cross_entropy", "weighted/soft_targets", "validation/accuracy"):
        told, expected = in_parts.history[name], whole.history[name]
        assert [step for step, _ in told] == [step for step, _ in expected]
        assert [value for _, value in told] == pytest.approx([value for _, value in expected], abs=1e-4)


def test_a_network_with_batch_normalisation_learns_in_parts(run, small_network):
    trained, _ = run(4, network=small_network(), epochs=40, optimizer="adamw", terms=LABELS)
    assert trained.best_validation > 0.9


def test_in_parts_too_a_stopped_run_equals_an_uninterrupted_one(run, small_network, listener):
    whole, parted_run = small_network(), small_network(seed=99)
    run(2, network=whole)
    observer = listener(stop_when=lambda looks: looks == 7)
    with pytest.raises(Stopped):
        run(2, network=small_network(), observer=observer)
    path, sha256 = observer.files[-1]
    run(2, network=parted_run, resume=checkpoint.load(path, sha256=sha256))
    assert state_sha256(parted_run) == state_sha256(whole)


def test_what_was_saved_of_whole_batches_goes_on_in_parts(run, listener):
    whole, _ = run(1, optimizer=Sgd(lr=0.02))
    observer = listener(stop_when=lambda looks: looks == 7)
    with pytest.raises(Stopped):
        run(1, observer=observer, optimizer=Sgd(lr=0.02))
    state = checkpoint.load(observer.files[-1][0], sha256=None)
    trained, _ = run(4, resume=state, optimizer=Sgd(lr=0.02), network=plain_network(seed=50))
    for name, each in trained.last.items():
        assert torch.allclose(each, whole.last[name], rtol=0, atol=1e-6)


class Largest(nn.Module):
    """Passes its input on and remembers the most images it was given, in training and outside of it."""

    def __init__(self):
        super().__init__()
        self.most = {True: 0, False: 0}

    def forward(self, x):
        self.most[self.training] = max(self.most[self.training], len(x))
        return x


@pytest.mark.parametrize(("parts", "trained", "validated"), [(1, 16, 40), (2, 8, 20), (4, 4, 10)])
def test_no_more_images_than_a_part_go_through_the_network(run, monkeypatch, small_dataset, parts, trained, validated):
    monkeypatch.setattr("engine.loop.VALIDATION_IMAGES", 40)
    largest = Largest()
    run(parts, network=nn.Sequential(largest, plain_network()), checkpoint_every=CheckpointEvery(epochs=3))
    assert largest.most == {True: trained, False: validated}


def test_the_user_is_told_once_what_is_seen_in_parts(run, small_network):
    assert run(1)[1].warnings == []
    (plain,) = run(2)[1].warnings
    assert "in 2 parts" in plain
    assert plain.endswith("But for rounding, that changes nothing.")
    told, *_ = run(4, network=small_network(), terms=(*LABELS, DistTerm()))[1].warnings
    assert "in 4 parts" in told
    assert "Only batch normalisation and dist see each part as a batch of its own" in told


def test_only_terms_that_compare_samples_are_named(small_network):
    def lesson(*terms):
        return Offline(plain_network(), objective=build(terms), teacher=FrozenTeacher(small_network()))

    assert "Only dist sees each part" in notice(lesson(*LABELS, DistTerm()), parts=2)
    assert "Only" not in notice(lesson(*LABELS, SoftTargetsTerm()), parts=2)


def test_a_bad_part_makes_the_step_a_bad_one(run, small_dataset):
    class BadThird(nn.Module):
        """Of the parts that it is asked to learn from, the third is spoilt."""

        seen = 0

        def forward(self, x):
            self.seen += self.training
            return x * float("nan") if self.training and self.seen == 3 else x

    trained, observer = run(2, network=nn.Sequential(plain_network(), BadThird()), dataset=replace(small_dataset))
    assert trained.history["skipped_steps"] == [(2, 1.0)]
    assert "step 2" in observer.warnings[-1]
