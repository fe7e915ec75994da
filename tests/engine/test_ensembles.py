"""Several teachers: three ways to merge them, each to its formula, and what the merged teacher is as a network."""

import itertools

import numpy as np
import pytest
import torch

from distillery.spec.objectives import SoftTargetsTerm
from engine.data.views import batches
from engine.objectives import build
from engine.outputs import Outputs
from engine.teachers import Ensemble, EnsembleTeacher, FrozenTeacher, confidence, mixed_logits, state_sha256

MERGES = ("mean_logits", "mean_probabilities", "confidence")


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def batch(small_dataset):
    return next(batches(small_dataset.train, batch_size=16, seed=0, epoch=0, augment=(), mean=(0.5,), std=(0.2,)))


@pytest.fixture
def teachers(small_network):
    return [FrozenTeacher(small_network(seed=seed, width=4 + seed)) for seed in (1, 2, 3)]


@pytest.fixture
def student(small_network, batch):
    return Outputs(logits=small_network(seed=9).eval()(batch.images))


def oracle(student, each, labels, merge, temperature):
    """T² KL, averaged over the batch, by the definition of each merge; everything in float64."""
    q = np.log(softmax(student / temperature))
    if merge == "mean_logits":
        p = softmax(each.mean(axis=0) / temperature)
        return temperature**2 * (p * (np.log(p) - q)).sum(axis=1).mean()
    softened = softmax(each / temperature)
    if merge == "mean_probabilities":
        p = softened.mean(axis=0)
        return temperature**2 * (p * (np.log(p) - q)).sum(axis=1).mean()
    total = 0.0
    for sample, label in enumerate(labels):
        losses = np.array([-np.log(softmax(z[sample])[label]) for z in each])
        shares = (1 - softmax(losses)) / (len(each) - 1)
        assert shares.sum() == pytest.approx(1)
        for share, p in zip(shares, softened[:, sample], strict=True):
            total += share * (p * (np.log(p) - q[sample])).sum()
    return temperature**2 * total / len(labels)


@pytest.mark.parametrize(("merge", "temperature"), [*itertools.product(MERGES, (1.0, 4.0))])
def test_each_merge_is_its_formula(teachers, student, batch, merge, temperature):
    knowledge = EnsembleTeacher(teachers, merge=merge).knowledge(batch)
    each = np.stack([teacher.knowledge(batch).logits.double().numpy() for teacher in teachers])
    term = build([SoftTargetsTerm(weight=1.0, temperature=temperature)])
    found = term(student, knowledge, batch)["soft_targets"]
    expected = oracle(student.logits.detach().double().numpy(), each, batch.labels.numpy(), merge, temperature)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_three_merges_are_three_objectives(teachers, student, batch):
    term = build([SoftTargetsTerm(weight=1.0)])
    values = {
        round(
            float(
                term(student, EnsembleTeacher(teachers, merge=merge).knowledge(batch), batch)["soft_targets"].detach()
            ),
            6,
        )
        for merge in MERGES
    }
    assert len(values) == 3


@pytest.mark.parametrize("merge", MERGES)
def test_equal_teachers_are_one_teacher(small_network, student, batch, merge):
    one = FrozenTeacher(small_network(seed=1))
    twins = EnsembleTeacher([one, FrozenTeacher(small_network(seed=1))], merge=merge)
    term = build([SoftTargetsTerm(weight=1.0)])
    alone, together = (
        float(term(student, each.knowledge(batch), batch)["soft_targets"].detach()) for each in (one, twins)
    )
    assert together == pytest.approx(alone, rel=1e-5)


def test_the_surer_teacher_of_the_label_counts_more():
    right, wrong = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    shares = confidence(torch.stack([right, wrong]), torch.tensor([0]))
    assert float(shares[0, 0]) > 0.9
    assert float(shares.sum()) == pytest.approx(1)


def test_confidence_stays_finite_for_extreme_logits():
    each = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    shares = confidence(each, torch.tensor([0]))
    assert bool(shares.isfinite().all())
    student = Outputs(logits=torch.zeros(1, 2, requires_grad=True))
    members = tuple(Outputs(logits=z) for z in each)
    given = Outputs(logits=mixed_logits(each, shares), members=members, merge="confidence", shares=shares)
    for term in (SoftTargetsTerm(weight=1.0), SoftTargetsTerm(weight=1.0, standardize=True)):
        value = build([term])(student, given, None)["soft_targets"]
        (gradient,) = torch.autograd.grad(value, student.logits)
        assert bool(value.isfinite())
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("merge", MERGES)
def test_as_one_network_it_answers_as_the_merged_teacher(teachers, batch, merge):
    """Where no label is known, the merge by confidence is that of the mean probabilities."""
    network = Ensemble([each.network for each in teachers], merge=merge).eval()
    expected = EnsembleTeacher(teachers, merge="mean_probabilities" if merge == "confidence" else merge)
    torch.testing.assert_close(network(batch.images), expected.knowledge(batch).logits)


@pytest.mark.parametrize("merge", MERGES)
def test_teaching_leaves_every_member_untouched(teachers, batch, merge):
    together = EnsembleTeacher(teachers, merge=merge)
    before = state_sha256(together)
    together.train()
    together.knowledge(batch)
    assert state_sha256(together) == before
    assert not any(each.requires_grad for each in together.parameters())
    assert not any(module.training for member in teachers for module in member.modules())
