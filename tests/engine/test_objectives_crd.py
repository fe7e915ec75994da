"""Contrastive representation distillation: its formula, its banks, and the images that each sample is told from."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillery.errors import InvalidRequest
from distillery.spec.objectives import CrdTerm, LayerPair
from engine.data.views import Batch
from engine.fitting import Feature, Fitting, Surveyed
from engine.objectives import crd
from engine.objectives.crd import Crd, Roll, log_partition, noise_contrastive, remembered, similarities
from engine.outputs import Outputs
from engine.taps import EMBEDDING

IMAGES = 60
IDS = torch.randperm(1000, generator=torch.Generator().manual_seed(5))[:IMAGES] * 7 - 2000
"""In no order, with gaps, and some below zero."""
LABELS = torch.tensor([(3, 3, 3, 8, 8, 40)[place % 6] for place in range(IMAGES)])
"""30, 20 and 10 images of three classes."""
OURS, THEIRS = Feature(5, 1, signed=False), Feature(7, 1, signed=False)


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitting(*, ids=IDS, labels=LABELS):
    ours = {"deep": Feature(4, 3, signed=False), EMBEDDING: OURS}
    theirs = {"deep": Feature(6, 2, signed=False), EMBEDDING: THEIRS}
    return Fitting(Surveyed(ours, ("deep",)), Surveyed(theirs, ("deep",)), labels=labels, ids=ids)


def made(*, seed=1, **changes):
    torch.manual_seed(seed)
    return Crd(CrdTerm(**{"dimensions": 6, "negatives": 25, **changes}), fitting())


def batch(rows=slice(0, 8)):
    return Batch(images=torch.zeros(len(IDS[rows]), 1, 2, 2), labels=LABELS[rows], ids=IDS[rows])


def answers(rows=8, *, seed=0, dtype=torch.float32):
    student = {
        EMBEDDING: tensor(rows, 5, 1, 1, seed=seed).to(dtype),
        "deep": tensor(rows, 4, 3, 3, seed=seed).to(dtype),
    }
    teacher = {
        EMBEDDING: tensor(rows, 7, 1, 1, seed=seed).to(dtype),
        "deep": tensor(rows, 6, 2, 2, seed=seed).to(dtype),
    }
    logits = torch.zeros(rows, 3)
    return Outputs(logits=logits, features=student), Outputs(logits=logits, features=teacher)


def asked(term, *, seed=None, part=None, outputs=None):
    """The value of the term; the draws depend on `seed` alone."""
    if seed is not None:
        torch.manual_seed(seed)
    part = part or batch()
    student, teacher = outputs or answers(len(part.ids))
    return term(student, teacher, part)["crd"]


def banks(term):
    return term.student_bank.clone(), term.teacher_bank.clone()


def normalized(values):
    return values / np.sqrt((values**2).sum(axis=1, keepdims=True))


def oracle_loss(scores, images):
    """`scores` [B, 1 + K], the positive first."""
    noise, epsilon = (scores.shape[1] - 1) / images, 1e-7
    positive = np.log(scores[:, 0] / (scores[:, 0] + noise + epsilon)).sum()
    negative = np.log(noise / (scores[:, 1:] + noise + epsilon)).sum()
    return -(positive + negative) / len(scores)


def oracle_scores(anchors, bank, picked, temperature):
    pairs = zip(anchors, picked, strict=True)
    return np.exp(np.array([[anchor @ bank[row] / temperature for row in rows] for anchor, rows in pairs]))


@pytest.mark.parametrize(("rows", "negatives", "images"), [(1, 1, 2), (8, 25, 60), (16, 500, 50_000), (2, 4000, 10)])
def test_the_noise_contrastive_loss_equals_the_formula(rows, negatives, images):
    log_scores = 2 * tensor(rows, 1 + negatives)
    expected = oracle_loss(np.exp(log_scores.numpy()), images)
    assert float(noise_contrastive(log_scores, images=images)) == pytest.approx(expected, abs=1e-6, rel=1e-9)


def test_in_single_precision_the_loss_still_equals_the_formula():
    log_scores = 2 * tensor(8, 500)
    found = noise_contrastive(log_scores.float(), images=1000)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(oracle_loss(np.exp(log_scores.numpy()), 1000), rel=1e-5)


def test_a_critic_that_is_right_and_sure_costs_nothing():
    log_scores = torch.full((4, 11), -40.0, dtype=torch.float64)
    log_scores[:, 0] = 40
    assert float(noise_contrastive(log_scores, images=100)) == pytest.approx(0, abs=1e-4)
    assert float(noise_contrastive(-log_scores, images=100)) > 100


@pytest.mark.parametrize("portion", [1, 3 * IMAGES, 2**25])
def test_similarities_equal_the_formula_in_any_portions(portion, monkeypatch):
    monkeypatch.setattr(crd, "_MOST_PRODUCTS", portion)
    anchors, bank = tensor(8, 6, seed=1), tensor(IMAGES, 6, seed=2)
    picked = torch.randint(IMAGES, (8, 13), generator=torch.Generator().manual_seed(3))
    found = similarities(anchors, bank, picked, temperature=0.5)
    expected = np.log(oracle_scores(anchors.numpy(), bank.numpy(), picked.numpy(), 0.5))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_the_partition_is_the_number_of_images_times_the_mean_score():
    similar = tensor(8, 26)
    assert float(log_partition(similar, images=60).exp()) == pytest.approx(
        60 * np.exp(similar.numpy()).mean(), rel=1e-12
    )


def test_a_remembered_row_moves_towards_what_was_seen_and_has_length_one():
    bank, seen, rows = tensor(9, 4, seed=1), tensor(3, 4, seed=2), torch.tensor([7, 0, 4])
    before = bank.clone()
    found = remembered(bank, rows, seen, momentum=0.8)
    expected = bank.numpy().copy()
    expected[rows.numpy()] = normalized(0.8 * before.numpy()[rows.numpy()] + 0.2 * seen.numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert torch.equal(bank, before)


def test_gradients_agree_with_finite_differences():
    bank, picked = tensor(9, 4, seed=1), torch.tensor([[0, 3, 3, 8], [1, 1, 0, 2]])
    anchors = tensor(2, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: similarities(values, bank, picked, temperature=0.3), anchors)
    log_scores = tensor(3, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: noise_contrastive(values, images=20), log_scores)


def test_gradients_of_the_whole_term_agree_with_finite_differences():
    """With Z held: in the first batch it is a constant that the batch itself gives."""
    term = made(temperature=0.5).double()
    asked(term, outputs=answers(dtype=torch.float64))
    term.eval()
    student, teacher = answers(dtype=torch.float64)
    inputs = (student.features[EMBEDDING].requires_grad_(), *term.parameters())
    assert torch.autograd.gradcheck(lambda *_: asked(term, seed=4, outputs=(student, teacher)), inputs)


def test_the_gradient_of_a_training_step_is_that_of_the_banks_before_it():
    """The banks move in the same call that makes the loss, and the loss must not notice."""
    learning, watching = made(), made()
    asked(learning, seed=4)
    asked(watching, seed=4)
    watching.eval()
    for term in (learning, watching):
        asked(term, seed=5).backward()
    for ours, theirs in zip(learning.parameters(), watching.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def oracle_term(term, part, outputs, *, seed, partitions=None):
    """Value, and Z of both directions, from the formula alone; only the draws are asked of the term."""
    torch.manual_seed(seed)
    rows = term.roll.rows(part.ids)
    picked = np.concatenate((rows.numpy()[:, None], term.roll.others(rows, count=term.negatives).numpy()), axis=1)
    embedded = []
    for answer, embedding in zip(outputs, (term.student_embedding, term.teacher_embedding), strict=True):
        vectors = answer.features[EMBEDDING].numpy()[:, :, 0, 0]
        weight, bias = embedding.weight.detach().numpy(), embedding.bias.detach().numpy()
        embedded.append(normalized(vectors @ weight.T + bias))
    scores = [
        oracle_scores(anchors, bank.numpy(), picked, term.temperature)
        for anchors, bank in zip(embedded, (term.teacher_bank, term.student_bank), strict=True)
    ]
    partitions = partitions or [IMAGES * each.mean() for each in scores]
    value = sum(oracle_loss(each / z, IMAGES) for each, z in zip(scores, partitions, strict=True))
    return value, partitions, embedded


def test_the_term_equals_its_formula_with_z_from_the_first_batch_and_banks_that_follow():
    term, partitions = made(temperature=0.2, momentum=0.7).double(), None
    for step, rows in enumerate([slice(0, 8), slice(8, 24), slice(4, 12)]):
        part, outputs = batch(rows), answers(len(IDS[rows]), seed=step, dtype=torch.float64)
        places = term.roll.rows(part.ids).numpy()
        expected_banks = [each.numpy().copy() for each in banks(term)]
        expected, partitions, seen = oracle_term(term, part, outputs, seed=step, partitions=partitions)
        assert asked(term, seed=step, part=part, outputs=outputs).item() == pytest.approx(expected, abs=1e-6)
        for found, bank, vectors in zip(banks(term), expected_banks, seen, strict=True):
            bank[places] = normalized(0.7 * bank[places] + 0.3 * vectors)
            np.testing.assert_allclose(found.numpy(), bank, atol=1e-9)


def test_z_is_fixed_by_the_first_batch_in_training():
    term = made()
    assert not bool(term.partitions_fixed)
    asked(term, seed=1)
    first = term.log_partitions.clone()
    assert bool(term.partitions_fixed)
    assert float(first[0]) != float(first[1])
    asked(term, seed=2, part=batch(slice(8, 20)))
    assert torch.equal(term.log_partitions, first)


def test_what_is_remembered_is_finite_before_the_first_batch():
    """The loop takes a state that is not finite for a run that diverged."""
    assert all(bool(each.isfinite().all()) for each in made().state_dict().values() if each.is_floating_point())


def test_banks_start_within_their_bounds_and_differ():
    term, edge = made(dimensions=12), 1 / np.sqrt(12 / 3)
    for bank in banks(term):
        assert bank.shape == (IMAGES, 12)
        assert 0.9 * edge < float(bank.abs().max()) <= edge
    assert not torch.equal(*banks(term))


def test_only_the_rows_of_the_batch_change_and_they_have_length_one():
    term, part = made(), batch(slice(10, 18))
    before = banks(term)
    asked(term, part=part)
    changed = torch.zeros(IMAGES, dtype=torch.bool)
    changed[term.roll.rows(part.ids)] = True
    for bank, old in zip(banks(term), before, strict=True):
        assert torch.equal(bank[~changed], old[~changed])
        assert bool((bank[changed] != old[changed]).any(dim=1).all())
        torch.testing.assert_close(bank[changed].norm(dim=1), torch.ones(8))


def test_after_an_epoch_every_row_has_length_one():
    term = made()
    for start in range(0, IMAGES, 20):
        asked(term, part=batch(slice(start, start + 20)))
    for bank in banks(term):
        torch.testing.assert_close(bank.norm(dim=1), torch.ones(IMAGES))


def test_outside_of_training_nothing_is_remembered():
    term = made().eval()
    before = {name: each.clone() for name, each in term.state_dict().items()}
    assert bool(asked(term).isfinite())
    assert all(torch.equal(each, before[name]) for name, each in term.state_dict().items())


def test_the_banks_carry_no_gradient():
    term = made()
    asked(term).backward()
    assert not term.student_bank.requires_grad
    assert not term.teacher_bank.requires_grad


@pytest.mark.parametrize("label", [3, 8, 40])
def test_negatives_are_never_of_the_same_class_and_reach_every_other_image(label):
    roll = Roll(IDS, LABELS)
    rows = roll.rows(IDS[label == LABELS])
    by_row = LABELS[torch.argsort(IDS)]
    drawn = roll.others(rows, count=200)
    assert drawn.shape == (len(rows), 200)
    assert bool((by_row[drawn] != label).all())
    assert set(drawn.flatten().tolist()) == set(torch.nonzero(by_row != label).flatten().tolist())


def test_negatives_are_drawn_evenly_from_all_other_images():
    """Not evenly from the other classes: an image of a large class is as likely as one of a small class."""
    torch.manual_seed(0)
    roll = Roll(IDS, LABELS)
    rows = roll.rows(IDS[LABELS == 8])
    counts = torch.bincount(roll.others(rows, count=4000).flatten(), minlength=IMAGES)
    counts = counts[counts > 0]
    expected = len(rows) * 4000 / 40
    assert len(counts) == 40
    assert float(((counts - expected) ** 2 / expected).sum()) < 80  # 39 degrees of freedom; 1 in 10,000 by chance


def test_each_sample_draws_its_own_negatives_and_may_draw_one_twice():
    drawn = Roll(IDS, LABELS).others(torch.zeros(4, dtype=torch.int64), count=500)
    assert len({tuple(each) for each in drawn.tolist()}) == 4
    assert len(drawn[0].unique()) < 500


def test_draws_come_from_the_generator_that_is_part_of_the_resume_state():
    roll, rows = Roll(IDS, LABELS), torch.arange(4)
    state = torch.get_rng_state()
    first = roll.others(rows, count=9)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)
    assert torch.equal(roll.others(rows, count=9), first)


def test_the_row_of_an_image_follows_from_its_id_alone():
    roll = Roll(IDS, LABELS)
    rows = roll.rows(IDS)
    assert sorted(rows.tolist()) == list(range(IMAGES))
    shuffled = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))
    again = Roll(IDS[shuffled], LABELS[shuffled])
    assert torch.equal(again.rows(IDS), rows)
    assert torch.equal(again.classes, roll.classes)


@pytest.mark.parametrize("stranger", [int(IDS.min()) - 1, int(IDS.min()) + 1, int(IDS.max()) + 1, 2**62])
def test_an_image_that_is_not_in_the_banks_is_a_mistake_of_the_caller(stranger):
    part = Batch(images=torch.zeros(2, 1, 2, 2), labels=LABELS[:2], ids=torch.tensor([int(IDS[0]), stranger]))
    with pytest.raises(AssertionError, match="not among the training images"):
        asked(made(), part=part)


def test_without_ids_it_is_refused():
    nothing = torch.empty(0, dtype=torch.int64)
    with pytest.raises(InvalidRequest, match="carry no ids"):
        Crd(CrdTerm(), fitting(ids=nothing, labels=nothing))


def test_a_single_class_is_refused():
    with pytest.raises(InvalidRequest, match="all of one class"):
        Crd(CrdTerm(), fitting(labels=torch.full((IMAGES,), 4)))


def test_a_layer_that_was_not_looked_at_is_refused():
    with pytest.raises(InvalidRequest, match="'missing'"):
        made(pairs=(LayerPair(student="missing", teacher=EMBEDDING),))


def test_without_a_teacher_it_is_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="teacher"):
        made()(answers()[0], None, batch())


def test_only_the_last_pair_is_used_and_maps_are_averaged():
    named = (LayerPair(student=EMBEDDING, teacher=EMBEDDING), LayerPair(student="deep", teacher="deep"))
    term = made(pairs=named).eval()
    assert term.pairs == named[1:]
    student, teacher = answers()
    means = [
        Outputs(logits=each.logits, features={"deep": each.features["deep"].mean(dim=(2, 3), keepdim=True)})
        for each in (student, teacher)
    ]
    torch.testing.assert_close(asked(term, seed=1, outputs=(student, teacher)), asked(term, seed=1, outputs=means))


def learned(term, optimizer, steps):
    """Values of the steps over ever the same parts of the data."""
    values = []
    for step in steps:
        start = 20 * (step % 3)
        loss = asked(term, part=batch(slice(start, start + 20)), outputs=answers(20, seed=step % 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_a_state_dict_goes_on_bit_by_bit():
    term = made()
    optimizer = torch.optim.SGD(term.parameters(), lr=0.05, momentum=0.9)
    learned(term, optimizer, range(4))
    saved = copy.deepcopy((term.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    expected = learned(term, optimizer, range(4, 10))
    again = made(seed=77)
    resumed = torch.optim.SGD(again.parameters(), lr=0.05, momentum=0.9)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    assert learned(again, resumed, range(4, 10)) == expected
    assert all(torch.equal(each, term.state_dict()[name]) for name, each in again.state_dict().items())


def test_what_the_data_says_anyway_is_not_saved():
    names = {name for name in made().state_dict() if not name.startswith(("student_embedding", "teacher_embedding"))}
    assert names == {"student_bank", "teacher_bank", "log_partitions", "partitions_fixed"}


def test_it_learns_and_both_embeddings_are_trained():
    torch.manual_seed(0)
    term = made(temperature=0.3)
    before = [each.detach().clone() for each in term.parameters()]
    losses = learned(term, torch.optim.Adam(term.parameters(), lr=0.02), range(90))
    assert np.mean(losses[-9:]) < 0.9 * np.mean(losses[:9])
    assert len(before) == 4
    assert all(bool((each != old).any()) for each, old in zip(term.parameters(), before, strict=True))


@pytest.mark.parametrize("temperature", [0.001, 0.07, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_losses_are_single_precision_and_gradients_finite(temperature, dtype, rows, scale):
    term = made(temperature=temperature)
    student, teacher = (
        Outputs(logits=each.logits, features={name: scale * value for name, value in each.features.items()})
        for each in answers(rows, dtype=dtype)
    )
    features = student.features[EMBEDDING].requires_grad_()
    for _ in range(3):
        loss = asked(term, part=batch(slice(0, rows)), outputs=(student, teacher))
        loss.backward()
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())
        assert all(bool(each.grad.isfinite().all()) for each in (features, *term.parameters()))


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return found


def test_the_embeddings_of_the_negatives_are_never_gathered():
    """They would be 20 x 3000 x 64 numbers; what is made is a few numbers for each of the 20 x 3000 draws."""
    term = made(dimensions=64, negatives=3000)
    with Largest() as largest:
        asked(term, part=batch(slice(0, 20))).backward()
    assert 20 * 3000 < largest.numbers < 5 * 20 * 3000
