"""The deepest classifier teaches the shallower ones: the loss against an oracle, and whole runs."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import models
from distillery.errors import InvalidRequest
from distillery.spec.dataset import DigitsData
from distillery.spec.methods import SelfDistillationMethod
from distillery.spec.training import AdamW, Training
from engine import checkpoint
from engine.data.readers import load
from engine.data.views import Batch
from engine.evaluate import accuracy, predict
from engine.exits import Answers, WithExits, early_exit
from engine.fitting import Feature, Surveyed, survey
from engine.loop import Stopped, train
from engine.precision import autocast
from engine.strategies.self_distillation import SelfDistillation, feature_distance
from engine.teachers import state_sha256
from models import catalog

CPU = torch.device("cpu")
METHOD = SelfDistillationMethod(hard_weight=0.7, soft_weight=0.4, hint_weight=1e-3, temperature=3, label_smoothing=0.1)
STEPS = 5
"""Of 16 images in an epoch of the small data set; the last has 6."""


def with_exits(name="resnet8", *, size=8, channels=1, classes=3, seed=0):
    torch.manual_seed(seed)
    network = models.build(name, classes=classes, image_size=size, channels=channels)
    views = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))
    return WithExits(network, survey(network, views, stages=catalog.find(name).stages), classes=classes)


def batch(*, count=6, size=8, classes=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    views = torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64).to(dtype)
    return Batch(views, torch.randint(0, classes, (count,), generator=generator), torch.arange(count))


def drawn(*, exits=2, count=4, classes=5, seed=3):
    """Answers out of thin air, each a leaf that takes a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(*shape):
        values = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(exits + 1)]
        return tuple(2 * each.requires_grad_() for each in values), values

    (logits, logit_leaves), (maps, map_leaves) = leaves(count, classes), leaves(count, 3, 2, 2)
    return Answers(logits, maps), logit_leaves, map_leaves


def lesson(**changes):
    return SelfDistillation(with_exits(), method=METHOD.model_copy(update=changes))


def total(lesson, answers, views):
    weights = lesson.weights(0)
    return sum(weights[name] * value for name, value in lesson.terms(answers, views).items())


def numbers(terms):
    return {name: value.item() for name, value in terms.items()}


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def oracle(answers, labels, method):
    """The loss as it stands in METHODS, from float64 arrays: each term raw."""
    logits, maps = ([each.detach().numpy() for each in part] for part in (answers.logits, answers.maps))
    count, classes = logits[0].shape
    q = (1 - method.label_smoothing) * np.eye(classes)[labels] + method.label_smoothing / classes
    t = method.temperature
    deepest = softmax(logits[-1] / t)
    return {
        "cross_entropy": sum(-(q * np.log(softmax(z))).sum() / count for z in logits),
        "soft_targets": t**2
        * sum((deepest * (np.log(deepest) - np.log(softmax(z / t)))).sum() / count for z in logits[:-1]),
        "hint": sum(((each - maps[-1]) ** 2).sum() / count for each in maps[:-1]),
    }


@pytest.mark.parametrize("exits", [1, 2, 3])
@pytest.mark.parametrize("changes", [{}, {"temperature": 1.0, "label_smoothing": 0.0}])
def test_every_term_and_the_whole_loss_equal_the_formula(exits, changes):
    answers, *_ = drawn(exits=exits)
    taught, method = lesson(**changes), METHOD.model_copy(update=changes)
    labels = torch.tensor([0, 4, 2, 2])
    views = Batch(torch.empty(4, 1, 8, 8), labels, labels)
    expected = oracle(answers, labels.numpy(), method)
    assert numbers(taught.terms(answers, views)) == pytest.approx(expected, rel=1e-12)
    whole = (
        method.hard_weight * expected["cross_entropy"]
        + method.soft_weight * expected["soft_targets"]
        + method.hint_weight * expected["hint"]
    )
    assert total(taught, answers, views).item() == pytest.approx(whole, rel=1e-12)


def test_the_terms_of_a_network_equal_the_formula_on_what_it_says():
    taught, views = lesson(), batch(dtype=torch.float64)
    taught.network.double().train()
    answers = taught.forward(views)
    expected = oracle(answers, views.labels.numpy(), METHOD)
    assert numbers(taught.terms(answers, views)) == pytest.approx(expected, rel=1e-9)


def test_the_defaults_are_those_of_the_paper():
    """(1 - a)·CE + a·KL with a = 0.1, and 1e-6 for a distance that is a sum."""
    weights = SelfDistillation(with_exits(), method=SelfDistillationMethod()).weights(0)
    assert weights == {"cross_entropy": 0.9, "soft_targets": 0.1, "hint": 1e-6}


def test_equal_answers_have_nothing_to_teach():
    logits, maps = torch.randn(4, 5), torch.randn(4, 3, 2, 2)
    taught = lesson()
    found = numbers(taught.terms(Answers((logits,) * 3, (maps,) * 3), batch(count=4)))
    assert found["soft_targets"] == pytest.approx(0, abs=1e-6)
    assert found["hint"] == 0
    assert found["cross_entropy"] > 0


def test_the_distance_is_a_sum_over_elements_and_a_mean_over_the_batch():
    ones = torch.ones(4, 3, 2, 2)
    assert feature_distance(3 * ones, ones).item() == 4 * 3 * 2 * 2
    assert feature_distance(3 * ones[:2], ones[:2]).item() == 4 * 3 * 2 * 2


def test_the_distance_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda maps: feature_distance(maps, theirs), ours.requires_grad_())


@pytest.mark.parametrize("term", ["soft_targets", "hint"])
def test_what_the_deepest_says_is_never_changed_to_please_the_exits(term):
    answers, logit_leaves, map_leaves = drawn()
    views = Batch(torch.empty(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    *taught, deepest = logit_leaves if term == "soft_targets" else map_leaves
    value = lesson().terms(answers, views)[term]
    gradients = torch.autograd.grad(value, [*taught, deepest], allow_unused=True)
    assert gradients[-1] is None
    assert all(each.abs().max() > 0 for each in gradients[:-1])


@pytest.mark.parametrize("term", ["soft_targets", "hint"])
def test_no_weight_behind_the_last_exit_learns_from_anything_but_labels(term):
    taught, views = lesson(), batch()
    taught.network.train()
    value = taught.terms(taught.forward(views), views)[term]
    behind = {
        name for name, _ in taught.network.named_parameters() if name.startswith(("network.layer3", "network.li"))
    }
    names, parameters = zip(*taught.network.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True))
    assert behind
    assert all(gradients[name] is None for name in behind)
    reached = {name for name, each in gradients.items() if each is not None and each.abs().max() > 0}
    assert {"network.conv1.weight", "network.layer2.0.conv1.weight", "heads.0.steps.0.1.weight"} <= reached


def test_labels_teach_every_classifier():
    taught, views = lesson(), batch()
    taught.network.train()
    taught.terms(taught.forward(views), views)["cross_entropy"].backward()
    assert all(each.grad is not None for each in taught.network.parameters())


def test_the_losses_are_in_single_precision_under_bf16():
    taught, views = lesson(), batch()
    with autocast(CPU, precision="bf16"):
        answers = taught.forward(views)
    assert answers.logits[0].dtype == torch.bfloat16
    assert {each.dtype for each in taught.terms(answers, views).values()} == {torch.float32}


def test_heads_are_trained_and_are_no_part_of_the_shared_trunk():
    taught = lesson()
    (learners,) = taught.learners()
    assert {id(each) for each in learners} == {id(each) for each in taught.network.parameters()}
    names = {id(each): name for name, each in taught.network.named_parameters()}
    trunk = [names[id(each)] for each in taught.trunk()]
    assert all(name.startswith("network.") for name in trunk)
    assert "network.linear.weight" not in trunk
    assert len(trunk) == len(list(taught.network.network.parameters())) - 2


def test_the_companions_are_the_exits_with_the_same_weights():
    taught = lesson()
    held = {id(each) for each in taught.network.parameters()}
    found = taught.companions()
    assert list(found) == ["exit1", "exit2"]
    views = batch()
    taught.network.eval()
    for place, network in enumerate(found.values()):
        assert {id(each) for each in network.parameters()} <= held
        torch.testing.assert_close(network(views.images), taught.network.answers(views.images).logits[place])


class Wilful(nn.Module):
    """Cannot be written down, and so not be cut."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.linear = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, views):
        maps = self.first(views if views.mean() > 0 else -views)
        return self.linear(self.second(maps).mean((2, 3)))


def test_exits_that_could_not_be_delivered_are_refused_before_training():
    surveyed = Surveyed(
        {"first": Feature(4, 6, signed=True), "second": Feature(4, 4, signed=True)}, ("first", "second")
    )
    whole = WithExits(Wilful(), surveyed, classes=3)
    with pytest.raises(InvalidRequest, match="cannot be cut"):
        SelfDistillation(whole, method=METHOD)
    taught = SelfDistillation(whole, method=METHOD.model_copy(update={"deliver_exits": False}))
    assert len(taught.forward(batch()).logits) == 2


RECIPE = Training(epochs=3, batch_size=16, seed=11, device="cpu", precision="fp32", optimizer=AdamW(lr=1e-3))


@pytest.fixture
def finished(small_dataset, listener):
    """Runs to the end, stopped after each of the given numbers of looks; the state passes through files alone."""

    def run(*, stops=()):
        resume = None
        for attempt, looks in enumerate((*stops, None)):
            observer = listener(stop_when=None if looks is None else lambda seen, looks=looks: seen >= looks)
            taught = SelfDistillation(with_exits(seed=attempt), method=METHOD)
            torch.manual_seed(random.randrange(2**32))
            try:
                trained = train(
                    taught,
                    dataset=small_dataset,
                    recipe=RECIPE,
                    augment=("crop", "flip"),
                    observer=observer,
                    resume=resume,
                )
            except Stopped:
                path, sha256 = observer.files[-1]
                resume = checkpoint.load(path, sha256=sha256)
        curves = {name: curve for name, curve in trained.history.items() if name != "images_per_second"}
        return trained, curves, state_sha256(taught.network)

    return run


@pytest.mark.parametrize("stops", [[1], [STEPS], [STEPS + 3], [2, 4, 3]])
def test_a_run_stopped_and_taken_up_again_equals_an_uninterrupted_one(finished, stops):
    whole, curves, sha256 = finished()
    parted, found, again = finished(stops=stops)
    assert again == sha256
    assert found == curves
    for ours, theirs in ((parted.best, whole.best), (parted.last, whole.last)):
        assert {name: each.numpy().tobytes() for name, each in ours.items()} == {
            name: each.numpy().tobytes() for name, each in theirs.items()
        }


def test_a_run_tells_of_every_exit_and_keeps_the_heads_but_delivers_none(finished, small_dataset):
    trained, curves, _ = finished()
    assert {"validation/accuracy", "validation/accuracy/exit1", "validation/accuracy/exit2"} <= set(curves)
    assert {f"share/{name}" for name in ("cross_entropy", "soft_targets", "hint")} <= set(curves)
    assert any(name.startswith("heads.") for name in trained.best)
    whole = with_exits(seed=5)
    whole.load_state_dict(trained.best)
    plain = models.build("resnet8", classes=3, image_size=8, channels=1)
    plain.load_state_dict(whole.delivered(), strict=True)
    split, scale = small_dataset.validation, {"mean": small_dataset.mean, "std": small_dataset.std}
    epoch = [value for _, value in curves["validation/accuracy/exit1"]][trained.best_epoch - 1]
    cut = early_exit(whole, 1)
    assert accuracy(predict(plain, split, device=CPU, **scale), split.labels) == trained.best_validation
    assert accuracy(predict(cut, split, device=CPU, **scale), split.labels) == pytest.approx(epoch)


def test_on_digits_the_network_and_all_its_exits_learn(listener):
    data = load(DigitsData())
    taught = SelfDistillation(with_exits(classes=10), method=SelfDistillationMethod())
    recipe = RECIPE.model_copy(update={"epochs": 4, "batch_size": 64, "optimizer": AdamW(lr=5e-3)})
    trained = train(taught, dataset=data, recipe=recipe, augment=(), observer=listener())
    assert trained.best_validation > 0.8
    for number in (1, 2):
        curve = trained.history[f"validation/accuracy/exit{number}"]
        assert max(value for _, value in curve) > 0.6
