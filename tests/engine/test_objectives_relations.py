"""Objectives on features against float64 NumPy oracles: where layers are active, which samples they find alike."""

from itertools import product

import numpy as np
import pytest
import torch

from distillery.errors import InvalidRequest
from distillery.spec.objectives import AttentionTransferTerm, LayerPair, RelationalTerm, SimilarityTerm
from engine.data.views import Batch
from engine.fitting import Feature, Fitting, Surveyed
from engine.objectives.attention_transfer import AttentionTransfer, attention, attention_transfer
from engine.objectives.relational import (
    Relational,
    angle_divergence,
    angles,
    distance_divergence,
    relational,
    relative_distances,
)
from engine.objectives.similarity import Similarity, similarities, similarity
from engine.outputs import Outputs

HALVES = (torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = {"distance_weight": 25.0, "angle_weight": 50.0}
SHAPES = [((2, 3, 4, 4), (2, 5, 4, 4)), ((5, 7, 1, 1), (5, 2, 1, 1)), ((9, 4, 2, 2), (9, 3, 6, 6))]


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(size, *, seed=3):
    """An orthogonal matrix."""
    return torch.linalg.qr(maps(size, size, seed=seed)).Q


def rotated(features, *, seed=3):
    flat = features.flatten(1)
    return (flat @ rotation(flat.shape[1], seed=seed)).reshape(features.shape)


def gradient(loss, features):
    features = features.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(features), features)
    return found


def relations(student, teacher):
    return relational(student, teacher, **WEIGHTS)


ALL = pytest.mark.parametrize("loss", [attention_transfer, similarity, relations])
BETWEEN_SAMPLES = pytest.mark.parametrize("loss", [similarity, relations])


def oracle_pooled(features, side):
    """Means over the pixels of `side` x `side` regions, whose bounds are rounded outwards."""
    samples, channels, height, width = features.shape
    pooled = np.zeros((samples, channels, side, side))
    for row, column in product(range(side), range(side)):
        top, bottom = row * height // side, -(-(row + 1) * height // side)
        left, right = column * width // side, -(-(column + 1) * width // side)
        pooled[:, :, row, column] = features[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return pooled


def oracle_attention_transfer(student, teacher):
    side = min(student.shape[2], teacher.shape[2])
    total = 0.0
    for f_s, f_t in zip(oracle_pooled(student, side), oracle_pooled(teacher, side), strict=True):
        a_s, a_t = (f_s**2).mean(axis=0).ravel(), (f_t**2).mean(axis=0).ravel()
        total += ((a_s / np.sqrt((a_s**2).sum()) - a_t / np.sqrt((a_t**2).sum())) ** 2).mean()
    return total / len(student)


def oracle_similarities(features):
    samples = len(features)
    gram = np.array([[(a * b).sum() for b in features] for a in features])
    return np.array([gram[row] / np.sqrt((gram[row] ** 2).sum()) for row in range(samples)])


def oracle_similarity(student, teacher):
    return ((oracle_similarities(teacher) - oracle_similarities(student)) ** 2).sum() / len(student) ** 2


def smooth_l1(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def oracle_distances(features):
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in features] for a in features])
    return distances / distances[distances > 0].mean()


def oracle_distance_divergence(student, teacher):
    apart = oracle_distances(student) - oracle_distances(teacher)
    return sum(smooth_l1(each) for each in apart.ravel()) / apart.size


def oracle_cosine(features, vertex, first, second):
    if vertex in (first, second):
        return 0.0
    a, b = features[first] - features[vertex], features[second] - features[vertex]
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def oracle_angle_divergence(student, teacher):
    triples = list(product(range(len(student)), repeat=3))
    apart = [oracle_cosine(student, *triple) - oracle_cosine(teacher, *triple) for triple in triples]
    return sum(smooth_l1(each) for each in apart) / len(triples)


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape"),
    [*SHAPES, ((3, 4, 8, 8), (3, 6, 4, 4)), ((1, 2, 7, 7), (1, 2, 3, 3)), ((2, 2, 3, 3), (2, 4, 7, 7))],
)
def test_attention_transfer_equals_the_formula(student_shape, teacher_shape):
    student, teacher = maps(*student_shape, seed=1), maps(*teacher_shape, seed=2)
    found = attention_transfer(student, teacher)
    assert found.dtype == torch.float64
    expected = oracle_attention_transfer(student.numpy(), teacher.numpy())
    assert float(found) == pytest.approx(expected, abs=1e-6, rel=1e-9)


@pytest.mark.parametrize(("student_shape", "teacher_shape"), SHAPES)
def test_similarity_equals_the_formula(student_shape, teacher_shape):
    student, teacher = maps(*student_shape, seed=1), maps(*teacher_shape, seed=2)
    found = similarity(student, teacher)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(oracle_similarity(student.numpy(), teacher.numpy()), abs=1e-6, rel=1e-9)


@pytest.mark.parametrize(("student_shape", "teacher_shape"), SHAPES)
def test_the_relations_equal_their_formulas(student_shape, teacher_shape):
    student, teacher = maps(*student_shape, seed=1), maps(*teacher_shape, seed=2)
    distance = oracle_distance_divergence(student.numpy(), teacher.numpy())
    angle = oracle_angle_divergence(student.numpy(), teacher.numpy())
    flat = (student.flatten(1), teacher.flatten(1))
    assert float(distance_divergence(*flat)) == pytest.approx(distance, abs=1e-6, rel=1e-9)
    assert float(angle_divergence(*flat)) == pytest.approx(angle, abs=1e-6, rel=1e-9)
    found = relational(student, teacher, distance_weight=3.0, angle_weight=0.5)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(3 * distance + 0.5 * angle, abs=1e-6, rel=1e-9)


def test_distances_so_unlike_that_they_count_linearly_equal_the_formula():
    """One sample lies so far out that its distances differ by more than 1 from the teacher's."""
    student, teacher = maps(8, 5, seed=1), maps(8, 5, seed=2)
    student[0] *= 1000
    assert float((relative_distances(student) - relative_distances(teacher)).abs().max()) > 1
    expected = oracle_distance_divergence(student.numpy(), teacher.numpy())
    assert float(distance_divergence(student, teacher)) == pytest.approx(expected, abs=1e-6, rel=1e-9)


@ALL
def test_in_single_precision_the_losses_still_equal_their_formulas(loss):
    student, teacher = maps(6, 4, 5, 5, seed=1), maps(6, 7, 5, 5, seed=2)
    assert float(loss(student.float(), teacher.float())) == pytest.approx(float(loss(student, teacher)), rel=1e-5)


@ALL
@pytest.mark.parametrize(("student_side", "teacher_side"), [(2, 2), (4, 2), (2, 3)])
def test_gradients_agree_with_finite_differences(loss, student_side, teacher_side):
    student = maps(3, 2, student_side, student_side, seed=1).requires_grad_()
    teacher = maps(3, 4, teacher_side, teacher_side, seed=2)
    assert torch.autograd.gradcheck(lambda features: loss(features, teacher), student)


@ALL
def test_equal_features_cost_nothing_and_teach_nothing(loss):
    features = maps(6, 3, 4, 4)
    assert float(loss(features, features)) == pytest.approx(0, abs=1e-12)
    assert float(gradient(lambda student: loss(student, features), features).abs().max()) == pytest.approx(0, abs=1e-9)


@ALL
def test_the_scale_of_the_features_does_not_count(loss):
    student, teacher = maps(6, 3, 4, 4, seed=1), maps(6, 5, 4, 4, seed=2)
    before = float(loss(student, teacher))
    assert float(loss(100 * student, 0.01 * teacher)) == pytest.approx(before, rel=1e-9)


@BETWEEN_SAMPLES
def test_a_rotation_of_the_features_does_not_count(loss):
    student, teacher = maps(6, 3, 2, 2, seed=1), maps(6, 5, 2, 2, seed=2)
    before = float(loss(student, teacher))
    assert float(loss(rotated(student), teacher)) == pytest.approx(before, rel=1e-9)
    assert float(loss(student, rotated(teacher))) == pytest.approx(before, rel=1e-9)


@BETWEEN_SAMPLES
def test_the_order_of_the_samples_does_not_count(loss):
    student, teacher = maps(6, 3, 2, 2, seed=1), maps(6, 5, 2, 2, seed=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert float(loss(student[order], teacher[order])) == pytest.approx(float(loss(student, teacher)), rel=1e-9)
    assert float(loss(student[order], teacher)) != pytest.approx(float(loss(student, teacher)), rel=1e-3)


def test_the_origin_does_not_count_for_relations():
    student, teacher = maps(6, 3, 2, 2, seed=1), maps(6, 5, 2, 2, seed=2)
    assert float(relations(student + 7, teacher - 3)) == pytest.approx(float(relations(student, teacher)), rel=1e-9)


def test_samples_crowded_far_from_the_origin_are_told_apart_in_single_precision():
    student, teacher = maps(6, 8, seed=1).float() + 1000, maps(6, 5, seed=2).float()
    expected = float(relations(student.double(), teacher.double()))
    assert float(relations(student, teacher)) == pytest.approx(expected, rel=1e-3)


def test_distances_are_measured_in_their_mean():
    distances = relative_distances(maps(6, 5))
    assert float(distances.sum() / 30) == pytest.approx(1, rel=1e-12)
    assert float(distances.diagonal().abs().max()) == 0
    assert torch.equal(distances, distances.T)


def test_angles_are_cosines_seen_from_each_vertex():
    corner = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    seen = angles(corner, corner)[0]
    assert torch.equal(seen, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_the_sign_and_the_place_of_channels_do_not_count_for_attention():
    features = maps(4, 3, 5, 5)
    turned = -features[:, [2, 0, 1]]
    np.testing.assert_allclose(attention(turned).numpy(), attention(features).numpy(), atol=1e-12)


def test_the_larger_map_is_averaged_before_it_is_squared():
    """A pattern of +1 and -1 averages to nothing."""
    checkered = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)
    checkered[:2, :2] = 3.0
    small = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert float(attention_transfer(checkered[None, None], small[None, None])) == 0
    assert float(attention_transfer(small[None, None], checkered[None, None])) == 0


def test_a_batch_twice_over_has_the_same_attention_transfer():
    student, teacher = maps(4, 3, 5, 5, seed=1), maps(4, 3, 5, 5, seed=2)
    twice = attention_transfer(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1))
    assert float(twice) == pytest.approx(float(attention_transfer(student, teacher)), rel=1e-12)


@ALL
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("rows", [2, 8])
def test_losses_are_single_precision_and_finite_for_any_features(loss, dtype, scale, rows):
    student = (scale * maps(rows, 3, 4, 4, seed=1)).to(dtype)
    teacher = (scale * maps(rows, 5, 4, 4, seed=2)).to(dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert bool(value.isfinite())
    assert bool(gradient(lambda features: loss(features, teacher), student).isfinite().all())


@ALL
@pytest.mark.parametrize("silent", [[0], [0, 3], [0, 1, 2, 3, 4, 5]], ids=["one", "two", "all"])
def test_samples_without_activity_are_moved_gently(loss, silent):
    """Divided by a small number where a norm is 0, their gradient would be about 1e12."""
    student, teacher = maps(6, 3, 4, 4, seed=1, dtype=torch.float32), maps(6, 5, 4, 4, seed=2, dtype=torch.float32)
    student[silent] = 0
    found = gradient(lambda features: loss(features, teacher), student)
    assert bool(loss(student, teacher).isfinite())
    assert float(found.abs().max()) < 10


@BETWEEN_SAMPLES
def test_samples_that_look_the_same_are_moved_gently(loss):
    student, teacher = maps(6, 8, 1, 1, seed=1, dtype=torch.float32), maps(6, 5, 1, 1, seed=2, dtype=torch.float32)
    student[3] = student[0]
    found = gradient(lambda features: loss(features, teacher), student)
    assert bool(loss(student, teacher).isfinite())
    assert float(found.abs().max()) < 10


@ALL
def test_a_silent_teacher_is_borne(loss):
    student = maps(6, 3, 4, 4, dtype=torch.float32)
    found = gradient(lambda features: loss(features, torch.zeros(6, 5, 4, 4)), student)
    assert bool(found.isfinite().all())


def test_attention_of_a_single_sample_is_defined():
    student, teacher = maps(1, 3, 4, 4, seed=1), maps(1, 5, 4, 4, seed=2)
    assert float(attention_transfer(student, teacher)) > 0


@BETWEEN_SAMPLES
def test_a_single_sample_is_refused_where_samples_are_compared(loss):
    with pytest.raises(InvalidRequest, match="only one") as refusal:
        loss(maps(1, 3, 2, 2), maps(1, 3, 2, 2))
    assert "batch_size" in refusal.value.hint


@pytest.mark.parametrize("elements_at_once", [1, 17 * 40 * 3, 17 * 40 * 16])
def test_angles_seen_from_some_vertices_at_a_time_are_the_same(elements_at_once):
    """One vertex, three and sixteen of seventeen at a time."""
    student, teacher = maps(17, 12, seed=1), maps(17, 23, seed=2)
    whole = gradient(lambda features: angle_divergence(features, teacher), student)
    some = gradient(lambda features: angle_divergence(features, teacher, elements_at_once=elements_at_once), student)
    np.testing.assert_allclose(some.numpy(), whole.numpy(), atol=1e-14)
    assert float(angle_divergence(student, teacher, elements_at_once=elements_at_once)) == pytest.approx(
        float(angle_divergence(student, teacher)), rel=1e-12
    )


def held_for_the_backward_pass(loss):
    """Bytes of the tensors that autograd keeps, without those that are kept twice."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_vertices_seen_in_turn_are_not_kept_for_the_backward_pass():
    student, teacher = maps(32, 8, seed=1).requires_grad_(), maps(32, 8, seed=2)
    whole = held_for_the_backward_pass(lambda: angle_divergence(student, teacher))
    some = held_for_the_backward_pass(lambda: angle_divergence(student, teacher, elements_at_once=1))
    assert whole > 8 * 32**3
    assert some < 8 * 32**2


def test_angles_seen_in_turn_can_be_asked_for_their_gradient_twice():
    """The loop looks at each term's share of the gradient before its step."""
    student, teacher = maps(9, 4, seed=1).requires_grad_(), maps(9, 4, seed=2)
    value = angle_divergence(student, teacher, elements_at_once=1)
    (first,) = torch.autograd.grad(value, student, retain_graph=True)
    value.backward()
    assert torch.equal(first, student.grad)


def test_nothing_flows_back_to_the_teacher_of_relations():
    student, teacher = maps(5, 4, 1, 1, seed=1).requires_grad_(), maps(5, 4, 1, 1, seed=2).requires_grad_()
    relations(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


STUDENT = {"shallow": (4, 8), "deep": (6, 4), "embedding": (6, 1)}
TEACHER = {"block1": (8, 8), "block2": (12, 2), "embedding": (12, 1)}
PAIRS = (LayerPair(student="shallow", teacher="block1"), LayerPair(student="deep", teacher="block2"))


def surveyed(shapes):
    features = {layer: Feature(channels, size, True) for layer, (channels, size) in shapes.items()}
    return Surveyed(features, tuple(layer for layer in shapes if layer != "embedding"))


def fitting():
    return Fitting(surveyed(STUDENT), surveyed(TEACHER))


def answers(shapes, *, rows=6, seed=0, requires_grad=False):
    features = {
        layer: maps(rows, channels, size, size, seed=seed + place).requires_grad_(requires_grad)
        for place, (layer, (channels, size)) in enumerate(shapes.items())
    }
    return Outputs(logits=torch.zeros(rows, 3), features=features)


def batch(rows=6):
    return Batch(images=torch.zeros(rows, 1, 2, 2), labels=torch.arange(rows) % 3, ids=torch.arange(rows))


TERMS = [
    (AttentionTransfer, AttentionTransferTerm, attention_transfer),
    (Similarity, SimilarityTerm, similarity),
    (Relational, RelationalTerm, relations),
]
EACH_TERM = pytest.mark.parametrize(("kind", "spec", "loss"), TERMS, ids=[kind.name for kind, _, _ in TERMS])


@EACH_TERM
def test_a_term_adds_up_its_pairs_of_layers(kind, spec, loss):
    term = kind(spec(pairs=PAIRS), fitting())
    student, teacher = answers(STUDENT, seed=1, requires_grad=True), answers(TEACHER, seed=9)
    found = term(student, teacher, batch())
    expected = sum(loss(student.features[pair.student], teacher.features[pair.teacher]) for pair in PAIRS)
    assert term.pairs == PAIRS
    assert list(found) == [kind.name]
    assert float(found[kind.name].detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    found[kind.name].backward()
    assert student.features["shallow"].grad is not None
    assert student.features["deep"].grad is not None
    assert student.features["embedding"].grad is None


@EACH_TERM
def test_a_term_finds_its_pairs_by_the_rule_of_its_spec(kind, spec, loss):
    assert kind(spec(pairs="auto"), fitting()).pairs == PAIRS
    assert kind(spec(pairs="last"), fitting()).pairs == PAIRS[1:]
    assert kind(spec(), fitting()).pairs == fitting().pairs(spec().pairs)


@EACH_TERM
def test_a_term_has_nothing_to_train_or_to_remember(kind, spec, loss):
    assert kind(spec(), fitting()).state_dict() == {}
    assert list(kind(spec(), fitting()).parameters()) == []


@EACH_TERM
def test_a_term_that_needs_a_teacher_is_not_asked_without(kind, spec, loss):
    term = kind(spec(), fitting())
    assert term.needs_teacher
    with pytest.raises(AssertionError, match="teacher"):
        term(answers(STUDENT), None, batch())


def test_the_weights_of_relations_reach_their_formula():
    term = Relational(RelationalTerm(distance_weight=2, angle_weight=3), fitting())
    student, teacher = answers(STUDENT, seed=1), answers(TEACHER, seed=9)
    expected = relational(
        student.features["embedding"], teacher.features["embedding"], distance_weight=2, angle_weight=3
    )
    assert float(term(student, teacher, batch())["relational"]) == float(expected)


def test_attention_on_vectors_is_refused():
    """A map of one pixel is always fully attended to: the term would be 0 and teach nothing."""
    with pytest.raises(InvalidRequest, match="embedding and embedding meet in a single pixel") as refusal:
        AttentionTransfer(AttentionTransferTerm(pairs="embedding"), fitting())
    assert refusal.value.hint


def test_attention_on_vectors_is_borne_beside_maps():
    pairs = (*PAIRS, LayerPair(student="embedding", teacher="embedding"))
    student, teacher = answers(STUDENT, seed=1), answers(TEACHER, seed=9)
    with_vectors, without = (
        AttentionTransfer(AttentionTransferTerm(pairs=each), fitting())(student, teacher, batch())["attention_transfer"]
        for each in (pairs, PAIRS)
    )
    assert float(with_vectors) == pytest.approx(float(without), rel=1e-12)


def test_the_similarities_of_a_sample_to_all_have_norm_one():
    norms = similarities(maps(6, 3, 4, 4)).norm(dim=1)
    np.testing.assert_allclose(norms.numpy(), np.ones(6), atol=1e-12)
