"""Objectives on logits against float64 NumPy oracles of their formulas, and the ways such losses are known to fail."""

import numpy as np
import pytest
import torch

from distillery.errors import InvalidRequest
from distillery.spec.objectives import DistTerm, DkdTerm
from engine.data.views import Batch
from engine.objectives.dist import Dist, dist, inter_class, intra_class, pearson
from engine.objectives.dkd import Dkd, dkd, non_target_divergence, target_divergence
from engine.objectives.soft_targets import mixed_soft_targets, soft_targets, standardized, weighed_soft_targets
from engine.outputs import Outputs

TEMPERATURES = (0.5, 1.0, 4.0, 16.0)
SHAPES = [(2, 2), (8, 10), (33, 100)]
WEIGHTS = {"target_weight": 1.0, "non_target_weight": 8.0}
EVEN = {"inter_weight": 1.0, "intra_weight": 1.0}


def logits(rows=8, classes=10, *, seed=0, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)


def labels(rows=8, classes=10, *, seed=7):
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


def several(members=3, rows=8, classes=10, *, dtype=torch.float64):
    return torch.stack([logits(rows, classes, seed=20 + member, dtype=dtype) for member in range(members)])


def parts(members=3, rows=8):
    """What each member counts for each sample."""
    return torch.rand(members, rows, generator=torch.Generator().manual_seed(9), dtype=torch.float64).softmax(dim=0)


def gradient(loss, z):
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(z), z)
    return found


def softmax(z):
    powers = np.exp(z - z.max())
    return powers / powers.sum()


def divergence(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def oracle_standardized(z):
    return np.array([(row - row.mean()) / (np.sqrt(((row - row.mean()) ** 2).mean()) + 1e-7) for row in z])


def oracle_mixed(student, teachers, shares, temperature):
    total = 0.0
    for row, z in enumerate(student):
        members = zip(teachers[:, row], shares[:, row], strict=True)
        mixed = sum(share * softmax(member / temperature) for member, share in members)
        total += divergence(mixed, softmax(z / temperature))
    return temperature**2 * total / len(student)


def oracle_weighed(student, teachers, shares, temperature):
    total = 0.0
    for row, z in enumerate(student):
        for member, share in zip(teachers[:, row], shares[:, row], strict=True):
            total += share * divergence(softmax(member / temperature), softmax(z / temperature))
    return temperature**2 * total / len(student)


def oracle_dkd_parts(student, teacher, targets, temperature):
    """TCKD and NCKD."""
    target, others = 0.0, 0.0
    for z_s, z_t, y in zip(student, teacher, targets, strict=True):
        p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
        target += divergence([p_t[y], np.delete(p_t, y).sum()], [p_s[y], np.delete(p_s, y).sum()])
        others += divergence(np.delete(p_t, y) / np.delete(p_t, y).sum(), np.delete(p_s, y) / np.delete(p_s, y).sum())
    return temperature**2 * target / len(student), temperature**2 * others / len(student)


def oracle_pearson(u, v):
    a, b = u - u.mean(), v - v.mean()
    return (a * b).sum() / (np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()) + 1e-8)


def oracle_dist(student, teacher, temperature, *, inter_weight, intra_weight):
    p_s = np.array([softmax(z / temperature) for z in student])
    p_t = np.array([softmax(z / temperature) for z in teacher])
    inter = 1 - np.mean([oracle_pearson(u, v) for u, v in zip(p_s, p_t, strict=True)])
    intra = 1 - np.mean([oracle_pearson(u, v) for u, v in zip(p_s.T, p_t.T, strict=True)])
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardized_logits_equal_the_formula(shape):
    z = logits(*shape)
    np.testing.assert_allclose(standardized(z).numpy(), oracle_standardized(z.numpy()), atol=1e-6)


def test_standardized_logits_have_mean_zero_and_deviation_one():
    z = standardized(logits())
    assert float(z.mean(dim=1).abs().max()) < 1e-12
    assert float((z.square().mean(dim=1) - 1).abs().max()) < 1e-6


def test_an_affine_map_of_each_samples_logits_leaves_the_standardized_ones():
    z = logits()
    factors, offsets = 0.1 + torch.arange(8.0, dtype=torch.float64), torch.linspace(-50, 50, 8, dtype=torch.float64)
    mapped = factors[:, None] * z + offsets[:, None]
    np.testing.assert_allclose(standardized(mapped).numpy(), standardized(z).numpy(), atol=1e-5)


def test_the_gradient_of_standardized_logits_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(standardized, logits(4, 5).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [0.0, 0.1, 100.0])
def test_equal_logits_are_standardized_to_about_zero_and_no_gradient_explodes(level, dtype):
    """As of a classifier that starts at zero: by the formula alone rounding would become an answer."""
    z = torch.full((4, 10), level, dtype=dtype)
    teacher = standardized(logits(4, dtype=dtype))
    found = gradient(lambda student: soft_targets(standardized(student), teacher, temperature=2.0), z)
    assert standardized(z).dtype == torch.float32
    assert float(standardized(z).abs().max()) < 1e-4
    assert float(found.float().norm()) < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_standardized_in_single_precision(dtype):
    z = logits(dtype=dtype)
    assert standardized(z).dtype == torch.float32
    np.testing.assert_allclose(standardized(z).numpy(), oracle_standardized(z.double().numpy()), atol=1e-5)
    assert bool(gradient(lambda student: standardized(student).square().sum(), z).isfinite().all())


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 8, 10), (5, 33, 100)])
def test_the_divergence_from_a_mixture_equals_the_formula(shape, temperature):
    student, teachers, shares = logits(*shape[1:]), several(*shape), parts(*shape[:2])
    found = mixed_soft_targets(student, teachers, shares, temperature=temperature)
    expected = oracle_mixed(student.numpy(), teachers.numpy(), shares.numpy(), temperature)
    assert float(found) == pytest.approx(expected, abs=1e-6, rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 8, 10), (5, 33, 100)])
def test_the_mean_of_divergences_equals_the_formula(shape, temperature):
    student, teachers, shares = logits(*shape[1:]), several(*shape), parts(*shape[:2])
    found = weighed_soft_targets(student, teachers, shares, temperature=temperature)
    expected = oracle_weighed(student.numpy(), teachers.numpy(), shares.numpy(), temperature)
    assert float(found) == pytest.approx(expected, abs=1e-6, rel=1e-9)


TOGETHER = pytest.mark.parametrize("together", [mixed_soft_targets, weighed_soft_targets])


@TOGETHER
def test_the_gradient_towards_several_teachers_agrees_with_finite_differences(together):
    teachers, shares = several(3, 4, 5), parts(3, 4)
    student = logits(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: together(z, teachers, shares, temperature=3.0), student)


def test_mixing_answers_and_averaging_divergences_teach_the_same():
    """They differ by how far the teachers disagree, which the student cannot change."""
    student, teachers, shares = logits(), several(), parts()
    mixed = gradient(lambda z: mixed_soft_targets(z, teachers, shares, temperature=4.0), student)
    weighed = gradient(lambda z: weighed_soft_targets(z, teachers, shares, temperature=4.0), student)
    np.testing.assert_allclose(mixed.numpy(), weighed.numpy(), atol=1e-12)
    gaps = [
        float(weighed_soft_targets(z, teachers, shares, temperature=4.0))
        - float(mixed_soft_targets(z, teachers, shares, temperature=4.0))
        for z in (student, logits(seed=5))
    ]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)
    assert gaps[0] > 0


@TOGETHER
def test_teachers_of_one_opinion_are_one_teacher(together):
    student, teacher = logits(seed=1), logits(seed=2)
    found = together(student, torch.stack([teacher] * 3), parts(), temperature=4.0)
    assert float(found) == pytest.approx(float(soft_targets(student, teacher, temperature=4.0)), rel=1e-9)


@TOGETHER
def test_a_teacher_without_a_share_is_not_heard(together):
    student, teachers = logits(seed=1), several(2)
    shares = torch.tensor([[1.0] * 8, [0.0] * 8], dtype=torch.float64)
    found = together(student, teachers, shares, temperature=4.0)
    assert float(found) == pytest.approx(float(soft_targets(student, teachers[0], temperature=4.0)), rel=1e-9)
    assert bool(gradient(lambda z: together(z, teachers, shares, temperature=4.0), student).isfinite().all())


def test_a_student_that_answers_as_the_mixture_pays_nothing():
    teachers, shares = several(), parts()
    mixture = (shares.unsqueeze(2) * teachers.softmax(dim=2)).sum(dim=0).log()
    assert float(mixed_soft_targets(mixture, teachers, shares, temperature=1.0)) == pytest.approx(0, abs=1e-12)


@TOGETHER
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 8])
def test_several_teachers_are_heard_in_single_precision(together, dtype, rows):
    teachers, shares = 1e3 * several(rows=rows, dtype=dtype), parts(rows=rows).to(dtype)
    student = logits(rows, scale=1e3, dtype=dtype)
    loss = together(student, teachers, shares, temperature=4.0)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())
    assert bool(gradient(lambda z: together(z, teachers, shares, temperature=4.0), student).isfinite().all())


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(1, 3), *SHAPES])
def test_dkd_equals_the_formula(shape, temperature):
    student, teacher, targets = logits(*shape, seed=1), logits(*shape, seed=2), labels(*shape)
    target, others = oracle_dkd_parts(student.numpy(), teacher.numpy(), targets.numpy(), temperature)
    found = dkd(student, teacher, targets, temperature=temperature, target_weight=0.7, non_target_weight=6.0)
    assert float(target_divergence(student, teacher, targets, temperature=temperature)) == pytest.approx(
        target, abs=1e-6, rel=1e-9
    )
    assert float(non_target_divergence(student, teacher, targets, temperature=temperature)) == pytest.approx(
        others, abs=1e-6, rel=1e-9
    )
    assert float(found) == pytest.approx(0.7 * target + 6.0 * others, abs=1e-6, rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_targets_are_the_two_parts_of_dkd_coupled_by_the_teachers_doubt(temperature):
    """KD = TCKD + (1 - p_y)·NCKD, sample by sample."""
    student, teacher, targets = logits(seed=1), logits(seed=2), labels()
    for row in range(len(student)):
        one = (student[row : row + 1], teacher[row : row + 1])
        target = target_divergence(*one, targets[row : row + 1], temperature=temperature)
        others = non_target_divergence(*one, targets[row : row + 1], temperature=temperature)
        doubt = 1 - (teacher[row] / temperature).softmax(dim=0)[targets[row]]
        coupled = soft_targets(*one, temperature=temperature)
        assert float(target + doubt * others) == pytest.approx(float(coupled), rel=1e-9, abs=1e-12)


def test_the_gradient_of_dkd_agrees_with_finite_differences():
    teacher, targets = logits(4, 5, seed=2), labels(4, 5)
    student = logits(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dkd(z, teacher, targets, temperature=3.0, **WEIGHTS), student)


def test_two_classes_have_no_others_to_tell_apart():
    student, teacher, targets = logits(8, 2, seed=1), logits(8, 2, seed=2), labels(8, 2)
    assert float(non_target_divergence(student, teacher, targets, temperature=4.0)) == 0
    target = target_divergence(student, teacher, targets, temperature=4.0)
    assert float(target) == pytest.approx(float(soft_targets(student, teacher, temperature=4.0)), rel=1e-9)


def test_what_the_student_answers_for_the_label_is_nothing_to_the_others():
    student, teacher, targets = logits(seed=1), logits(seed=2), labels()
    surer = student.clone()
    surer[torch.arange(8), targets] += 5
    before, after = (non_target_divergence(z, teacher, targets, temperature=4.0) for z in (student, surer))
    assert float(before) == float(after)


def test_how_the_student_divides_the_rest_is_nothing_to_the_label():
    student, teacher, targets = logits(seed=1), logits(seed=2), labels()
    shuffled = student.clone()
    for row, target in enumerate(targets.tolist()):
        rest = [place for place in range(10) if place != target]
        shuffled[row, rest] = student[row, rest[::-1]]
    before, after = (target_divergence(z, teacher, targets, temperature=4.0) for z in (student, shuffled))
    assert float(before) == pytest.approx(float(after), rel=1e-12)


def test_a_sure_teacher_still_teaches_about_the_rest():
    """Soft targets hardly feel what it says of the wrong classes; the second part of DKD feels all of it."""
    teacher, targets = logits(seed=2), labels()
    teacher[torch.arange(8), targets] = 40
    student = logits(seed=1)
    student[torch.arange(8), targets] = 40
    assert float(soft_targets(student, teacher, temperature=1.0)) < 1e-6
    assert float(non_target_divergence(student, teacher, targets, temperature=1.0)) > 1


def test_dkd_of_equal_answers_costs_nothing_and_teaches_nothing():
    z, targets = logits(), labels()
    assert float(dkd(z, z, targets, temperature=4.0, **WEIGHTS)) == pytest.approx(0, abs=1e-12)
    found = gradient(lambda student: dkd(student, z, targets, temperature=4.0, **WEIGHTS), z)
    assert float(found.abs().max()) == pytest.approx(0, abs=1e-12)


def test_a_batch_twice_over_has_the_same_dkd():
    student, teacher, targets = logits(seed=1), logits(seed=2), labels()
    once = dkd(student, teacher, targets, temperature=4.0, **WEIGHTS)
    twice = dkd(student.repeat(2, 1), teacher.repeat(2, 1), targets.repeat(2), temperature=4.0, **WEIGHTS)
    assert float(twice) == pytest.approx(float(once), rel=1e-12)


def test_the_gradient_of_dkd_does_not_shrink_with_the_temperature():
    student, teacher, targets = logits(seed=1, scale=0.5), logits(seed=2, scale=0.5), labels()
    norms = [
        float(gradient(lambda z, t=temperature: dkd(z, teacher, targets, temperature=t, **WEIGHTS), student).norm())
        for temperature in (1.0, 4.0, 16.0)
    ]
    assert max(norms) < 1.2 * min(norms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("classes", [2, 10])
def test_dkd_is_single_precision_and_finite_for_any_logits(dtype, scale, rows, classes):
    """Equal logits, a single sample, sure answers; every label is class 0, so that the others are absent."""
    student = logits(rows, classes, seed=1, scale=scale, dtype=dtype)
    teacher = logits(rows, classes, seed=2, scale=scale, dtype=dtype)
    targets = torch.zeros(rows, dtype=torch.int64)
    loss = dkd(student, teacher, targets, temperature=4.0, **WEIGHTS)
    found = gradient(lambda z: dkd(z, teacher, targets, temperature=4.0, **WEIGHTS), student)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())
    assert bool(found.isfinite().all())


def test_dkd_in_single_precision_still_sees_answers_that_round_to_one():
    """The student's 1 - p_y is 1e-26 here: taken from 1 it would be 0, and its logarithm infinite."""
    student, teacher, targets = torch.tensor([[60.0, 0.0, -1.0]]), torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0])
    target, others = oracle_dkd_parts(student.double().numpy(), teacher.double().numpy(), targets.numpy(), 1.0)
    found = dkd(student, teacher, targets, temperature=1.0, **WEIGHTS)
    assert float(found) == pytest.approx(target + 8 * others, rel=1e-5)
    assert target > 40


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dist_equals_the_formula(shape, temperature):
    student, teacher = logits(*shape, seed=1), logits(*shape, seed=2)
    weights = {"inter_weight": 0.6, "intra_weight": 1.7}
    found = dist(student, teacher, temperature=temperature, **weights)
    expected = oracle_dist(student.numpy(), teacher.numpy(), temperature, **weights)
    assert float(found) == pytest.approx(expected, abs=1e-6, rel=1e-9)


@pytest.mark.parametrize("dim", [0, 1])
def test_pearson_equals_numpys_correlation(dim):
    first, second = logits(6, 9, seed=1), logits(6, 9, seed=2)
    rows = (
        zip(first.numpy(), second.numpy(), strict=True) if dim else zip(first.numpy().T, second.numpy().T, strict=True)
    )
    expected = [np.corrcoef(u, v)[0, 1] for u, v in rows]
    np.testing.assert_allclose(pearson(first, second, dim=dim).numpy(), expected, atol=1e-8)


def test_the_gradient_of_dist_agrees_with_finite_differences():
    teacher, student = logits(4, 5, seed=2), logits(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dist(z, teacher, temperature=3.0, **EVEN), student)


def test_an_affine_map_of_each_samples_answers_leaves_the_correlation_over_classes():
    student, teacher = logits(seed=1), logits(seed=2)
    factors = torch.linspace(0.2, 5, 8, dtype=torch.float64)[:, None]
    offsets = torch.linspace(-3, 3, 8, dtype=torch.float64)[:, None]
    before = float(inter_class(student, teacher))
    assert float(inter_class(factors * student + offsets, teacher)) == pytest.approx(before, abs=1e-7)
    assert float(inter_class(student, factors * teacher + offsets)) == pytest.approx(before, abs=1e-7)


def test_an_affine_map_of_each_classs_answers_leaves_the_correlation_over_samples():
    student, teacher = logits(seed=1), logits(seed=2)
    factors = torch.linspace(0.2, 5, 10, dtype=torch.float64)
    offsets = torch.linspace(-3, 3, 10, dtype=torch.float64)
    before = float(intra_class(student, teacher))
    assert float(intra_class(factors * student + offsets, teacher)) == pytest.approx(before, abs=1e-7)
    assert float(intra_class(student, factors * teacher + offsets)) == pytest.approx(before, abs=1e-7)


def test_a_student_need_not_be_as_sure_as_the_teacher():
    """It answers half as surely and keeps the order: soft targets cost something, the correlation over classes not."""
    teacher = logits().softmax(dim=1)
    student = 0.5 * teacher + 0.05
    assert float(soft_targets(student.log(), teacher.log(), temperature=1.0)) > 0.01
    assert float(inter_class(student, teacher)) == pytest.approx(0, abs=1e-6)


def test_an_offset_of_each_samples_logits_leaves_dist():
    student, teacher = logits(seed=1), logits(seed=2)
    offsets = torch.linspace(-30, 30, 8, dtype=torch.float64)[:, None]
    before = float(dist(student, teacher, temperature=4.0, **EVEN))
    assert float(dist(student + offsets, teacher - offsets, temperature=4.0, **EVEN)) == pytest.approx(before, abs=1e-9)


def test_dist_of_equal_answers_is_least_and_teaches_nothing():
    z = logits()
    assert float(dist(z, z, temperature=4.0, **EVEN)) == pytest.approx(0, abs=1e-5)
    found = gradient(lambda student: dist(student, z, temperature=4.0, **EVEN), z)
    assert float(found.abs().max()) == pytest.approx(0, abs=1e-5)


def test_opposite_answers_cost_most():
    answers = logits().softmax(dim=1)
    assert float(inter_class(-answers, answers)) == pytest.approx(2, abs=1e-6)
    assert float(intra_class(-answers, answers)) == pytest.approx(2, abs=1e-5)


def test_a_batch_twice_over_has_the_same_dist():
    student, teacher = logits(seed=1), logits(seed=2)
    once = dist(student, teacher, temperature=4.0, **EVEN)
    twice = dist(student.repeat(2, 1), teacher.repeat(2, 1), temperature=4.0, **EVEN)
    assert float(twice) == pytest.approx(float(once), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("rows", [2, 8])
def test_dist_is_single_precision_and_finite_for_any_logits(dtype, scale, rows):
    student, teacher = logits(rows, seed=1, scale=scale, dtype=dtype), logits(rows, seed=2, scale=scale, dtype=dtype)
    student[:, 3] = teacher[:, 3] = -6e4  # a class that nobody holds possible
    loss = dist(student, teacher, temperature=4.0, **EVEN)
    found = gradient(lambda z: dist(z, teacher, temperature=4.0, **EVEN), student)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("level", [0.0, 0.1, -7.0])
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_a_student_without_opinion_correlates_with_nothing_and_is_moved_gently(level, classes):
    """So begins a classifier of zeros. By the formula alone its gradient would be 1/epsilon, some 1e6 of norm."""
    student, teacher = torch.full((64, classes), level), logits(64, classes, dtype=torch.float32)
    loss = dist(student, teacher, temperature=4.0, **EVEN)
    found = gradient(lambda z: dist(z, teacher, temperature=4.0, **EVEN), student)
    assert float(loss) == pytest.approx(16 * 2, rel=1e-3)
    assert 0 < float(found.norm()) < 10


def test_a_step_from_no_opinion_goes_towards_the_teachers():
    student, teacher = torch.zeros(64, 10), logits(64, dtype=torch.float32)
    stepped = student - gradient(lambda z: dist(z, teacher, temperature=4.0, **EVEN), student)
    before, after = (float(dist(z, teacher, temperature=4.0, **EVEN)) for z in (student, stepped))
    assert after < 0.5 * before


def test_a_teacher_without_opinion_teaches_next_to_nothing():
    teacher = torch.full((8, 10), 0.1)
    found = gradient(lambda z: dist(z, teacher, temperature=4.0, **EVEN), logits(dtype=torch.float32))
    assert float(found.abs().max()) < 1e-5


def test_dist_of_a_single_sample_is_refused():
    with pytest.raises(InvalidRequest, match="only one") as refusal:
        dist(logits(1, seed=1), logits(1, seed=2), temperature=4.0, **EVEN)
    assert "batch_size" in refusal.value.hint


def batch(rows=8):
    return Batch(images=torch.zeros(rows, 1, 2, 2), labels=labels(rows), ids=torch.arange(rows))


def test_the_parameters_of_dkd_reach_its_formula():
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    term = Dkd(DkdTerm(temperature=2, target_weight=0.5, non_target_weight=6))
    found = term(Outputs(logits=student), Outputs(logits=teacher), batch())
    expected = dkd(student, teacher, labels(), temperature=2, target_weight=0.5, non_target_weight=6)
    assert list(found) == ["dkd"]
    assert found["dkd"].requires_grad
    assert float(found["dkd"].detach()) == float(expected.detach())


def test_the_parameters_of_dist_reach_its_formula():
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    term = Dist(DistTerm(temperature=2, inter_weight=0.5, intra_weight=3))
    found = term(Outputs(logits=student), Outputs(logits=teacher), batch())
    expected = dist(student, teacher, temperature=2, inter_weight=0.5, intra_weight=3)
    assert list(found) == ["dist"]
    assert found["dist"].requires_grad
    assert float(found["dist"].detach()) == float(expected.detach())


@pytest.mark.parametrize("term", [Dkd(DkdTerm()), Dist(DistTerm())], ids=["dkd", "dist"])
def test_a_term_that_needs_a_teacher_is_not_asked_without(term):
    assert term.needs_teacher
    with pytest.raises(AssertionError, match="teacher"):
        term(Outputs(logits=logits()), None, batch())
