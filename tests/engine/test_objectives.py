"""Every objective against a float64 NumPy oracle of its formula, and the ways such losses are known to fail."""

from typing import get_args

import numpy as np
import pytest
import torch

from distillery.errors import InvalidRequest
from distillery.spec.objectives import CrossEntropyTerm, SoftTargetsTerm, Term
from distillery.spec.presets import PRESETS
from engine.data.views import Batch
from engine.objectives import OBJECTIVES, build
from engine.objectives.cross_entropy import cross_entropy
from engine.objectives.soft_targets import soft_targets
from engine.outputs import Outputs

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 16.0)


def logits(rows=8, classes=10, *, seed=0, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)


def labels(rows=8, classes=10, *, seed=7):
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def oracle_soft_targets(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum() / len(student)


def oracle_cross_entropy(z, targets, smoothing):
    classes = z.shape[1]
    q = (1 - smoothing) * np.eye(classes)[targets] + smoothing / classes
    return -(q * np.log(softmax(z))).sum() / len(z)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(1, 2), (8, 10), (64, 100)])
def test_soft_targets_equal_the_formula(temperature, shape):
    student, teacher = logits(*shape, seed=1), logits(*shape, seed=2)
    found = soft_targets(student, teacher, temperature=temperature)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(
        oracle_soft_targets(student.numpy(), teacher.numpy(), temperature), abs=1e-6, rel=1e-9
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(1, 2), (8, 10), (64, 100)])
def test_cross_entropy_equals_the_formula(smoothing, shape):
    z, targets = logits(*shape), labels(*shape)
    found = cross_entropy(z, targets, label_smoothing=smoothing)
    expected = oracle_cross_entropy(z.numpy(), targets.numpy(), smoothing)
    assert float(found) == pytest.approx(expected, abs=1e-6, rel=1e-9)


def test_in_single_precision_the_losses_still_equal_their_formulas():
    student, teacher, targets = logits(seed=1), logits(seed=2), labels()
    soft = soft_targets(student.float(), teacher.float(), temperature=4.0)
    hard = cross_entropy(student.float(), targets)
    assert float(soft) == pytest.approx(oracle_soft_targets(student.numpy(), teacher.numpy(), 4.0), rel=1e-5)
    assert float(hard) == pytest.approx(oracle_cross_entropy(student.numpy(), targets.numpy(), 0.0), rel=1e-5)


def test_gradients_agree_with_finite_differences():
    student, teacher, targets = logits(4, 5, seed=1).requires_grad_(), logits(4, 5, seed=2), labels(4, 5)
    assert torch.autograd.gradcheck(lambda z: soft_targets(z, teacher, temperature=3.0), student)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets, label_smoothing=0.1), student)


def gradient(student, teacher, temperature):
    z = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(soft_targets(z, teacher, temperature=temperature), z)
    return found


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_temperature_times_the_difference_of_the_softened_answers(temperature):
    student, teacher = logits(seed=1), logits(seed=2)
    difference = softmax(student.numpy() / temperature) - softmax(teacher.numpy() / temperature)
    expected = temperature * difference / len(student)
    np.testing.assert_allclose(gradient(student, teacher, temperature).numpy(), expected, atol=1e-12)


def test_the_size_of_the_gradient_does_not_shrink_with_the_temperature():
    """Without T² it would fall by a factor of 256 from T = 1 to T = 16."""
    student, teacher = logits(seed=1, scale=0.5), logits(seed=2, scale=0.5)
    norms = [float(gradient(student, teacher, temperature).norm()) for temperature in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert max(norms) < 1.1 * min(norms)


def test_the_loss_is_the_squared_temperature_times_the_divergence():
    student, teacher = logits(seed=1), logits(seed=2)
    divergence = oracle_soft_targets(student.numpy() / 4, teacher.numpy() / 4, 1.0)
    assert float(soft_targets(student, teacher, temperature=4.0)) == pytest.approx(16 * divergence, rel=1e-12)


def test_the_mean_is_taken_over_samples_and_not_over_classes():
    """Classes that nobody holds possible leave the loss as it is; kl_div's own `mean` would divide by their number."""
    student, teacher = logits(classes=10, seed=1), logits(classes=10, seed=2)
    nobody = torch.full((len(student), 90), -1000.0, dtype=torch.float64)
    few = soft_targets(student, teacher, temperature=4.0)
    many = soft_targets(torch.cat((student, nobody), 1), torch.cat((teacher, nobody), 1), temperature=4.0)
    assert float(many) == pytest.approx(float(few), rel=1e-12)


def test_a_batch_twice_over_has_the_same_loss():
    student, teacher = logits(seed=1), logits(seed=2)
    twice = soft_targets(student.repeat(2, 1), teacher.repeat(2, 1), temperature=4.0)
    assert float(twice) == pytest.approx(float(soft_targets(student, teacher, temperature=4.0)), rel=1e-12)


def test_the_divergence_runs_from_the_teacher_to_the_student():
    student, teacher = logits(seed=1), logits(seed=2)
    forward = float(soft_targets(student, teacher, temperature=1.0))
    assert forward == pytest.approx(oracle_soft_targets(student.numpy(), teacher.numpy(), 1.0))
    assert forward != pytest.approx(oracle_soft_targets(teacher.numpy(), student.numpy(), 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("rows", [1, 8])
def test_losses_are_single_precision_and_finite_for_any_logits(dtype, scale, rows):
    student = logits(rows, seed=1, scale=scale, dtype=dtype).requires_grad_()
    teacher = logits(rows, seed=2, scale=scale, dtype=dtype)
    for loss in (soft_targets(student, teacher, temperature=4.0), cross_entropy(student, labels(rows))):
        (found,) = torch.autograd.grad(loss, student)
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())
        assert bool(found.isfinite().all())


def test_logits_at_the_edge_of_single_precision_stay_finite():
    student = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
    loss = soft_targets(student, torch.tensor([[-1e30, 1e30, 0.0]]), temperature=1.0)
    (found,) = torch.autograd.grad(loss, student)
    assert bool(loss.isfinite())
    assert bool(found.isfinite().all())


def test_equal_answers_cost_nothing_and_teach_nothing():
    z = logits()
    assert float(soft_targets(z, z, temperature=4.0)) == pytest.approx(0, abs=1e-12)
    assert float(gradient(z, z, 4.0).abs().max()) == pytest.approx(0, abs=1e-12)


def batch(rows=8):
    return Batch(images=torch.zeros(rows, 1, 2, 2), labels=labels(rows), ids=torch.arange(rows))


def test_every_term_of_the_spec_has_an_objective():
    union = get_args(get_args(Term)[0])
    assert [kind.name for kind in OBJECTIVES] == [term.model_fields["term"].default for term in union]


def test_an_objective_gives_its_terms_raw():
    student, teacher = Outputs(logits=logits(seed=1)), Outputs(logits=logits(seed=2))
    objective = build(PRESETS["kd"])
    raw = objective(student, teacher, batch())
    assert objective.weights == {"cross_entropy": 0.1, "soft_targets": 0.9}
    assert float(raw["cross_entropy"]) == float(cross_entropy(student.logits, labels()))
    assert float(raw["soft_targets"]) == float(soft_targets(student.logits, teacher.logits, temperature=4.0))


def test_the_parameters_of_a_term_reach_its_formula():
    objective = build([CrossEntropyTerm(weight=0.5, label_smoothing=0.2), SoftTargetsTerm(weight=2, temperature=8)])
    student, teacher = Outputs(logits=logits(seed=1)), Outputs(logits=logits(seed=2))
    raw = objective(student, teacher, batch())
    assert float(raw["cross_entropy"]) == float(cross_entropy(student.logits, labels(), label_smoothing=0.2))
    assert float(raw["soft_targets"]) == float(soft_targets(student.logits, teacher.logits, temperature=8.0))


def test_without_a_teacher_only_the_terms_that_need_none_are_asked():
    objective = build(PRESETS["kd"])
    assert objective.needs_teacher
    assert list(objective(Outputs(logits=logits()), None, batch())) == ["cross_entropy"]
    assert not build([CrossEntropyTerm()]).needs_teacher


def test_an_objective_that_cannot_do_without_a_teacher_says_so():
    with pytest.raises(InvalidRequest, match="there is none"):
        build([SoftTargetsTerm()])(Outputs(logits=logits()), None, batch())


def test_an_objective_without_terms_is_refused():
    with pytest.raises(InvalidRequest, match="no terms"):
        build([])
