"""The terms that compare maps: hint, VID and review, each against a float64 NumPy oracle of its formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

import models
from distillery.errors import InvalidRequest
from distillery.spec.objectives import HintTerm, LayerPair, ReviewTerm, VidTerm
from engine.data.views import Batch
from engine.fitting import Feature, Fitting, Surveyed, survey
from engine.objectives.hint import Hint, hint
from engine.objectives.review import Fusion, Review, hierarchical_context
from engine.objectives.vid import SMALLEST_VARIANCE, Prediction, Vid, vid
from engine.outputs import Outputs
from engine.taps import EMBEDDING, tapped

TERMS = [(Hint, HintTerm), (Vid, VidTerm), (Review, ReviewTerm)]
OURS = {"a": Feature(3, 8, signed=False), "b": Feature(4, 4, signed=False), EMBEDDING: Feature(4, 1, signed=False)}
THEIRS = {"x": Feature(5, 8, signed=False), "y": Feature(6, 2, signed=True), EMBEDDING: Feature(7, 1, signed=True)}


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitting():
    """The second pair: 4x4 against 2x2."""
    return Fitting(Surveyed(OURS, ("a", "b")), Surveyed(THEIRS, ("x", "y")))


def answers(features, *, rows=4, seed=0, dtype=torch.float32, make=tensor):
    maps = {
        name: make(rows, each.channels, each.size, each.size, seed=seed + place).to(dtype)
        for place, (name, each) in enumerate(features.items())
    }
    return Outputs(logits=torch.zeros(rows, 2), features=maps)


def asked(term, student, teacher):
    (value,) = term(student, teacher, batch(len(student.logits))).values()
    return value


def batch(rows=4):
    return Batch(images=torch.zeros(rows, 1, 2, 2), labels=torch.zeros(rows, dtype=torch.int64), ids=torch.arange(rows))


def made(kind, spec, **changes):
    torch.manual_seed(3)
    return kind(spec(**changes), fitting())


def oracle_pool(values, grid):
    side = values.shape[-1]
    pooled = np.empty((*values.shape[:2], grid, grid))
    for row in range(grid):
        for column in range(grid):
            rows = slice(math.floor(row * side / grid), math.ceil((row + 1) * side / grid))
            columns = slice(math.floor(column * side / grid), math.ceil((column + 1) * side / grid))
            pooled[:, :, row, column] = values[:, :, rows, columns].mean(axis=(2, 3))
    return pooled


def oracle_hint(adapted, teacher):
    return ((adapted - teacher) ** 2).sum() / adapted.size


def oracle_vid(mean, teacher, variance):
    total = 0.0
    for channel, spread in enumerate(variance):
        errors = (teacher[:, channel] - mean[:, channel]) ** 2
        total += 0.5 * (errors / spread + np.log(spread)).sum()
    return total / teacher.size


def oracle_context(student, teacher):
    side = student.shape[-1]
    grids = [side, *(grid for grid in (4, 2, 1) if grid < side)]
    weights = [0.5**place for place in range(len(grids))]
    errors = [((oracle_pool(student, grid) - oracle_pool(teacher, grid)) ** 2).mean() for grid in grids]
    return sum(weight * error for weight, error in zip(weights, errors, strict=True)) / sum(weights)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 4), (8, 5, 7, 7)])
def test_hint_equals_the_formula(shape):
    adapted, teacher = tensor(*shape, seed=1), tensor(*shape, seed=2)
    assert float(hint(adapted, teacher)) == pytest.approx(oracle_hint(adapted.numpy(), teacher.numpy()), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 4), (8, 5, 7, 7)])
def test_vid_equals_the_formula(shape):
    mean, teacher, variance = tensor(*shape, seed=1), tensor(*shape, seed=2), tensor(shape[1], seed=3).exp()
    expected = oracle_vid(mean.numpy(), teacher.numpy(), variance.numpy())
    assert float(vid(mean, teacher, variance)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 8, 14])
def test_the_hierarchical_context_equals_the_formula(side):
    student, teacher = tensor(3, 4, side, side, seed=1), tensor(3, 4, side, side, seed=2)
    expected = oracle_context(student.numpy(), teacher.numpy())
    assert float(hierarchical_context(student, teacher)) == pytest.approx(expected, abs=1e-9)


def test_the_levels_of_a_large_map_weigh_8_4_2_1_of_15():
    """A difference that is the same at every pixel is seen at all four; one that averages out only at full size."""
    teacher = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    alternating = torch.ones(8, 8, dtype=torch.float64)
    alternating[::2] = -1
    assert float(hierarchical_context(teacher + 1, teacher)) == pytest.approx(1)
    assert float(hierarchical_context(teacher + alternating, teacher)) == pytest.approx(8 / 15)


def test_in_single_precision_the_losses_still_equal_their_formulas():
    student, teacher, variance = tensor(4, 5, 8, 8, seed=1), tensor(4, 5, 8, 8, seed=2), tensor(5, seed=3).exp()
    arrays = student.numpy(), teacher.numpy()
    for found, expected in (
        (hint(student.float(), teacher.float()), oracle_hint(*arrays)),
        (vid(student.float(), teacher.float(), variance.float()), oracle_vid(*arrays, variance.numpy())),
        (hierarchical_context(student.float(), teacher.float()), oracle_context(*arrays)),
    ):
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_gradients_agree_with_finite_differences():
    student, teacher = tensor(2, 3, 5, 5, seed=1).requires_grad_(), tensor(2, 3, 5, 5, seed=2)
    variance = tensor(3, seed=3).exp().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: hint(values, teacher), student)
    assert torch.autograd.gradcheck(lambda values, spread: vid(values, teacher, spread), (student, variance))
    assert torch.autograd.gradcheck(lambda values: hierarchical_context(values, teacher), student)


@pytest.mark.parametrize(("kind", "spec"), TERMS)
def test_gradients_of_the_whole_term_agree_with_finite_differences(kind, spec):
    term = made(kind, spec, pairs="auto").double()
    student, teacher = answers(OURS, rows=2, dtype=torch.float64), answers(THEIRS, rows=2, seed=9, dtype=torch.float64)
    inputs = tuple(value.requires_grad_() for value in student.features.values())

    def value(*maps):
        features = dict(zip(student.features, maps, strict=True))
        return asked(term, Outputs(logits=student.logits, features=features), teacher)

    assert torch.autograd.gradcheck(value, inputs)


def test_equal_maps_cost_nothing_and_teach_nothing():
    maps = tensor(4, 5, 8, 8)
    for loss in (hint, hierarchical_context):
        student = maps.clone().requires_grad_()
        value = loss(student, maps)
        value.backward()
        assert value.item() == 0
        assert float(student.grad.abs().max()) == 0


def test_a_hint_costs_nothing_where_the_adapter_gives_the_maps_of_the_teacher():
    term = made(Hint, HintTerm, pairs="last")
    student = answers(OURS)
    same = term.adapters[0](student.features["b"]).detach()
    teacher = Outputs(logits=student.logits, features={"y": same})
    assert asked(term, student, teacher).item() == 0


def test_vid_is_smallest_where_the_mean_is_the_map_of_the_teacher():
    teacher, variance = tensor(4, 5, 3, 3), tensor(5, seed=3).exp()
    mean = teacher.clone().requires_grad_()
    least = vid(mean, teacher, variance)
    least.backward()
    assert least.item() == pytest.approx(float(0.5 * variance.log().mean()))
    assert float(mean.grad.abs().max()) == 0
    for seed in range(5):
        assert float(vid(teacher + 0.1 * tensor(4, 5, 3, 3, seed=seed), teacher, variance)) > least.item()


@pytest.mark.parametrize("initial", [0.1, 1.0, 5.0, 100.0, 1000.0])
def test_the_variance_starts_where_it_was_told_to(initial):
    term = made(Vid, VidTerm, initial_variance=initial)
    for prediction in term.predictions:
        torch.testing.assert_close(prediction.variance(), torch.full_like(prediction.rho, initial), rtol=1e-4, atol=0)


def test_the_variance_stays_above_its_floor_wherever_it_starts():
    variance = made(Vid, VidTerm, initial_variance=1e-9).predictions[0].variance()
    assert bool((variance > SMALLEST_VARIANCE).all())


def test_the_variance_is_trained_and_grows_where_a_channel_cannot_be_predicted():
    """Two channels: one that is always 3, one of noise of variance 16."""
    torch.manual_seed(0)
    prediction = Prediction(Feature(1, 4, signed=True), Feature(2, 4, signed=True), initial_variance=5.0)
    optimizer = torch.optim.Adam(prediction.parameters(), lr=0.05)
    before = prediction.variance().detach().clone()
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        student = torch.randn(32, 1, 4, 4, generator=generator)
        noise = 4 * torch.randn(32, 1, 4, 4, generator=generator)
        loss = prediction(student, torch.cat((torch.full_like(noise, 3), noise), dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted, unpredicted = prediction.variance().tolist()
    assert before.tolist() == pytest.approx([5.0, 5.0], rel=1e-4)
    assert predicted < 0.5
    assert 10 < unpredicted < 22


def test_the_larger_map_is_averaged_to_the_smaller():
    larger = Prediction(Feature(3, 8, signed=True), Feature(2, 4, signed=True), initial_variance=1.0).double()
    smaller = Prediction(Feature(3, 4, signed=True), Feature(2, 8, signed=True), initial_variance=1.0).double()
    for prediction, ours, theirs in ((larger, 8, 4), (smaller, 4, 8)):
        student, teacher = tensor(2, 3, ours, ours, seed=1), tensor(2, 2, theirs, theirs, seed=2)
        mean = prediction.regressor(torch.from_numpy(oracle_pool(student.numpy(), 4))).detach().numpy()
        variance = prediction.variance().detach().numpy()
        expected = oracle_vid(mean, oracle_pool(teacher.numpy(), 4), variance)
        assert prediction(student, teacher).item() == pytest.approx(expected, abs=1e-9)


def oracle_norm(values, norm):
    mean, variance, weight, bias = (
        each.detach().numpy()[:, None, None] for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (values - mean) / np.sqrt(variance + norm.eps) * weight + bias


def oracle_nearest(values, size):
    places = np.arange(size) * values.shape[-1] // size
    return values[:, :, places][:, :, :, places]


def oracle_convolution(values, weight):
    side = weight.shape[-1]
    padded = np.pad(values, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight)


def oracle_fusion(maps, deeper, fusion):
    convolution, norm = fusion.entry
    fused = oracle_norm(oracle_convolution(maps, convolution.weight.detach().numpy()), norm)
    if deeper is not None:
        resized = oracle_nearest(deeper, fusion.size)
        attention = fusion.attention[0]
        scores = oracle_convolution(np.concatenate((fused, resized), axis=1), attention.weight.detach().numpy())
        shares = 1 / (1 + np.exp(-scores - attention.bias.detach().numpy()[:, None, None]))
        fused = shares[:, :1] * fused + shares[:, 1:] * resized
    fused = oracle_nearest(fused, fusion.teacher_size)
    convolution, norm = fusion.exit
    return oracle_norm(oracle_convolution(fused, convolution.weight.detach().numpy()), norm), fused


def settled(term):
    """In double precision and evaluation mode, the norms having seen something."""
    term = term.double()
    for place in range(3):
        asked(term, answers(OURS, seed=place, dtype=torch.float64), answers(THEIRS, seed=place, dtype=torch.float64))
    return term.eval()


def test_a_review_equals_its_formula_from_the_deepest_level_to_the_shallowest():
    term = settled(made(Review, ReviewTerm, channels=6))
    student, teacher = answers(OURS, dtype=torch.float64), answers(THEIRS, seed=9, dtype=torch.float64)
    expected, fused = 0.0, None
    for place in (2, 1, 0):
        pair, fusion = term.pairs[place], term.fusions[place]
        matched, fused = oracle_fusion(student.features[pair.student].numpy(), fused, fusion)
        assert matched.shape == teacher.features[pair.teacher].shape
        expected += oracle_context(matched, teacher.features[pair.teacher].numpy())
    assert asked(term, student, teacher).item() == pytest.approx(expected, abs=1e-9)


def test_the_deepest_level_of_a_review_is_the_embedding_unless_the_pairs_are_named():
    embedding = LayerPair(student=EMBEDDING, teacher=EMBEDDING)
    named = (LayerPair(student="a", teacher="x"), LayerPair(student="b", teacher="y"))
    assert made(Review, ReviewTerm).pairs == (*named, embedding)
    assert made(Review, ReviewTerm, pairs="last").pairs == (named[1], embedding)
    assert made(Review, ReviewTerm, pairs="embedding").pairs == (embedding,)
    assert made(Review, ReviewTerm, pairs=named).pairs == named


def test_only_the_deepest_level_of_a_review_has_nothing_to_fuse():
    assert [fusion.attention is None for fusion in made(Review, ReviewTerm).fusions] == [False, False, True]


@pytest.mark.parametrize(("asked_for", "deepest", "expected"), [(None, 4, 4), (None, 2048, 512), (9, 4, 9)])
def test_the_fused_maps_are_as_wide_as_asked_or_as_the_deepest_of_the_student(asked_for, deepest, expected):
    ours = OURS | {EMBEDDING: Feature(deepest, 1, signed=False)}
    term = Review(ReviewTerm(channels=asked_for), Fitting(Surveyed(ours, ("a", "b")), fitting().teacher))
    assert [fusion.entry[0].out_channels for fusion in term.fusions] == [expected] * 3


def test_a_shallow_level_learns_from_the_deeper_maps_of_the_student():
    """The way back through the fusion: the teacher's shallowest map teaches the student's embedding."""
    term, student = made(Review, ReviewTerm), answers(OURS)
    embedding = student.features[EMBEDDING].requires_grad_()
    fused = None
    for pair, fusion in zip(reversed(term.pairs), reversed(term.fusions), strict=True):
        matched, fused = fusion(student.features[pair.student], fused)
    hierarchical_context(matched, answers(THEIRS).features["x"]).backward()
    assert float(embedding.grad.abs().sum()) > 0


@pytest.mark.parametrize("sizes", [(4, 4), (8, 4), (4, 8), (6, 4), (1, 7), (7, 1)])
def test_a_fusion_gives_the_shape_of_the_teacher_at_any_ratio(sizes):
    ours, theirs = Feature(3, sizes[0], signed=True), Feature(5, sizes[1], signed=True)
    fusion = Fusion(ours, theirs, channels=4, deepest=False)
    matched, fused = fusion(torch.randn(2, 3, sizes[0], sizes[0]), torch.randn(2, 4, 3, 3))
    assert matched.shape == (2, 5, sizes[1], sizes[1])
    assert fused.shape == (2, 4, sizes[1], sizes[1])


@pytest.mark.parametrize(("kind", "spec"), TERMS[:2])
def test_several_pairs_are_added_up(kind, spec):
    term = made(kind, spec, pairs="auto").double().eval()
    student, teacher = answers(OURS, dtype=torch.float64), answers(THEIRS, seed=9, dtype=torch.float64)
    pairs, whole = term.pairs, asked(term, student, teacher).item()
    parts = term.adapters if kind is Hint else term.predictions
    each = 0.0
    for place, pair in enumerate(pairs):
        ours, theirs = student.features[pair.student], teacher.features[pair.teacher]
        value = hint(parts[place](ours), theirs) if kind is Hint else parts[place](ours, theirs)
        each += value.item()
    assert whole == pytest.approx(each, abs=1e-12)
    assert len(pairs) == 2


@pytest.mark.parametrize(("kind", "spec"), TERMS)
def test_a_term_learns_and_every_parameter_of_it_is_trained(kind, spec):
    term = made(kind, spec, pairs="auto")
    student, teacher = answers(OURS), answers(THEIRS, seed=9)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.02)
    before = {name: each.detach().clone() for name, each in term.named_parameters()}
    losses = []
    for _ in range(60):
        loss = asked(term, student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(bool((each != before[name]).any()) for name, each in term.named_parameters())
    assert set(before) <= set(term.state_dict())


@pytest.mark.parametrize(("kind", "spec"), TERMS)
def test_a_state_dict_brings_the_term_back(kind, spec):
    term, student, teacher = made(kind, spec, pairs="auto"), answers(OURS), answers(THEIRS, seed=9)
    asked(term, student, teacher)
    again = kind(spec(pairs="auto"), fitting())
    again.load_state_dict(term.state_dict())
    assert torch.equal(asked(again, student, teacher), asked(term, student, teacher))


def zeros(*shape, seed):
    return torch.zeros(*shape)


@pytest.mark.parametrize(("kind", "spec"), TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [tensor, zeros])
@pytest.mark.parametrize("rows", [2, 8])
def test_losses_are_single_precision_and_gradients_finite(kind, spec, dtype, make, rows):
    term = made(kind, spec, pairs="auto")
    student, teacher = (
        answers(OURS, rows=rows, dtype=dtype, make=make),
        answers(THEIRS, rows=rows, dtype=dtype, make=make),
    )
    inputs = [value.requires_grad_() for name, value in student.features.items() if name != EMBEDDING]
    loss = asked(term, student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())
    assert all(bool(value.grad.isfinite().all()) for value in (*inputs, *term.parameters()))


@pytest.mark.parametrize(("kind", "spec"), TERMS)
def test_a_single_image_is_enough_for_maps_of_several_pixels(kind, spec):
    term = made(kind, spec, pairs=(LayerPair(student="a", teacher="x"), LayerPair(student="b", teacher="y")))
    assert bool(asked(term, answers(OURS, rows=1), answers(THEIRS, rows=1)).isfinite())


@pytest.mark.parametrize(("kind", "spec"), [TERMS[0], TERMS[2]])
def test_a_single_image_is_refused_where_vectors_are_normalised(kind, spec):
    term = made(kind, spec, pairs="embedding")
    with pytest.raises(InvalidRequest, match="single image"):
        asked(term, answers(OURS, rows=1), answers(THEIRS, rows=1))
    assert bool(asked(term, answers(OURS, rows=2), answers(THEIRS, rows=2)).isfinite())


def test_vid_takes_a_single_vector():
    assert bool(asked(made(Vid, VidTerm, pairs="embedding"), answers(OURS, rows=1), answers(THEIRS, rows=1)).isfinite())


@pytest.mark.parametrize(("kind", "spec"), TERMS)
@pytest.mark.parametrize("pair", [("a", "missing"), ("missing", "x")])
def test_a_named_layer_that_was_not_looked_at_is_refused(kind, spec, pair):
    named = (LayerPair(student=pair[0], teacher=pair[1]),)
    with pytest.raises(InvalidRequest, match="'missing'"):
        made(kind, spec, pairs=named)


@pytest.mark.parametrize(("kind", "spec"), TERMS)
def test_a_term_without_a_teacher_is_a_mistake_of_the_caller(kind, spec):
    with pytest.raises(AssertionError, match="teacher"):
        asked(made(kind, spec), answers(OURS), None)


def vit():
    network = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)
    return network, ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1")


def swin():
    network = SwinTransformer([2, 2], embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=10)
    return network, ("features.1", "features.3")


def resnet():
    return models.build("resnet8", classes=10, image_size=16, channels=3), ("layer1", "layer2", "layer3")


def wide():
    return models.build("wrn16-2", classes=10, image_size=16, channels=3), ("block1", "block2", "block3")


NETWORKS = [(resnet, wide), (resnet, vit), (vit, resnet), (resnet, swin), (swin, vit)]


@pytest.mark.parametrize(("kind", "spec"), TERMS)
@pytest.mark.parametrize(("student", "teacher"), NETWORKS)
def test_a_student_of_any_kind_is_taught_by_a_teacher_of_any_kind(kind, spec, student, teacher):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    (ours, stages), (theirs, their_stages) = student(), teacher()
    fitted = Fitting(survey(ours, images, stages=stages), survey(theirs, images, stages=their_stages))
    term: nn.Module = kind(spec(pairs="auto"), fitted)
    with torch.no_grad():
        knowledge = tapped(theirs, images, [pair.teacher for pair in term.pairs])
    loss = asked(term, tapped(ours, images, [pair.student for pair in term.pairs]), knowledge)
    loss.backward()
    assert bool(loss.isfinite())
    taught = [each for each in ours.parameters() if each.grad is not None]
    assert all(bool(each.grad.isfinite().all()) for each in taught)
    assert sum(float(each.grad.abs().sum()) for each in taught) > 0
    assert all(each.grad is None for each in theirs.parameters())
