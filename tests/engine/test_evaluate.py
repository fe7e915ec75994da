"""Every figure of the evaluation, held against a plain float64 NumPy version of its definition."""

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from distillery.errors import TrainingDiverged
from engine.data.dataset import Split
from engine.evaluate import (
    accuracy,
    disagreements,
    expected_calibration_error,
    fidelity,
    paired_gain,
    predict,
    score,
    thumbnail,
    wilson,
)

CLASSES = tuple("abcdefg")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def answers(count: int, *, classes: int = 7, seed: int = 0, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = random.normal(scale=scale, size=(count, classes)).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(random.integers(0, classes, count))


def softmax(logits: torch.Tensor) -> np.ndarray:
    values = logits.numpy().astype(np.float64)
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def ece_oracle(logits: torch.Tensor, labels: torch.Tensor) -> float:
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    edges = [number / 15 for number in range(16)]
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 200), classes=st.integers(2, 12), seed=st.integers(0, 1000), scale=st.floats(0.01, 30))
def test_scores_are_those_of_the_definitions(count: int, classes: int, seed: int, scale: float) -> None:
    logits, labels = answers(count, classes=classes, seed=seed, scale=scale)
    names = [f"class {number}" for number in range(classes)]
    found = score(logits, labels, classes=names)
    probabilities, truth = softmax(logits), labels.numpy()
    order = (-logits.numpy()).argsort(1, kind="stable")
    right = order[:, 0] == truth
    assert found.images == count
    assert found.top1.value == pytest.approx(right.mean(), abs=1e-12)
    assert accuracy(logits, labels) == pytest.approx(right.mean(), abs=1e-12)
    if classes < 6:
        assert found.top5 is None
    else:
        assert found.top5 == pytest.approx((order[:, :5] == truth[:, None]).any(1).mean(), abs=1e-12)
    assert found.loss == pytest.approx(-np.log(probabilities[np.arange(count), truth]).mean(), rel=1e-9)
    assert found.ece == pytest.approx(ece_oracle(logits, labels), abs=1e-9)
    expected = {names[label]: right[truth == label].mean() for label in np.unique(truth)}
    assert found.per_class == pytest.approx(expected)


def test_calibration_error_of_known_cases() -> None:
    sure_and_right = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert expected_calibration_error(sure_and_right, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(sure_and_right, torch.tensor([1, 0])) == pytest.approx(1, abs=1e-9)
    undecided = torch.zeros(4, 2)  # says 0.5 and is right half of the time
    assert expected_calibration_error(undecided, torch.tensor([0, 1, 0, 1])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(successes: int, total: int, low: float, high: float) -> None:
    found = wilson(successes, total=total)
    assert found.value == successes / total
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None, max_examples=100)
@given(total=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilsons_interval_holds_its_value_and_stays_within_0_and_1(total: int, share: float) -> None:
    found = wilson(round(share * total), total=total)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 100), classes=st.integers(2, 12), seed=st.integers(0, 1000))
def test_fidelity_is_agreement_and_kl_from_teacher_to_student(count: int, classes: int, seed: int) -> None:
    student, _ = answers(count, classes=classes, seed=seed)
    teacher, _ = answers(count, classes=classes, seed=seed + 1)
    agreement, kl = fidelity(student, teacher)
    p, q = softmax(teacher), softmax(student)
    assert agreement == pytest.approx((p.argmax(1) == q.argmax(1)).mean(), abs=1e-12)
    assert kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-9)


def test_a_network_is_faithful_to_itself() -> None:
    logits, _ = answers(30)
    assert fidelity(logits, logits) == (1.0, 0.0)
    assert fidelity(logits, logits + 7) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_huge_logits_give_finite_figures() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]] * 3)
    assert np.isfinite(score(logits, torch.tensor([1, 0, 2]), classes="abc").loss)
    assert np.isfinite(fidelity(logits, -logits)[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_are_refused(value: float) -> None:
    logits, labels = answers(5)
    logits[3, 2] = value
    with pytest.raises(TrainingDiverged, match="not finite"):
        score(logits, labels, classes=CLASSES)


def flags(both: int, gained: int, lost: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    student = [True] * (both + gained) + [False] * (lost + neither)
    baseline = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return torch.tensor(student), torch.tensor(baseline)


def test_paired_gain_is_the_difference_of_accuracies_with_agresti_and_mins_interval() -> None:
    student, baseline = flags(794, 150, 86, 570)  # approval ratings; Agresti, Categorical Data Analysis
    found = paired_gain(student, baseline)
    assert found.value == pytest.approx((150 - 86) / 1600)
    both, gained, lost, neither = (count + 0.5 for count in (794, 150, 86, 570))
    n = both + gained + lost + neither
    deviation = np.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    middle = (gained - lost) / n
    assert (found.low, found.high) == pytest.approx((middle - 1.96 * deviation, middle + 1.96 * deviation), abs=1e-5)
    assert found.low > 0


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 10, 0, 0), (0, 0, 10, 0), (5, 0, 0, 5), (0, 1, 0, 0)])
def test_paired_gain_of_extreme_cases_keeps_a_width_and_its_value(counts: tuple[int, int, int, int]) -> None:
    found = paired_gain(*flags(*counts))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_paired_gains_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(0)
    table = np.array([0.8, 0.06, 0.04, 0.1])  # both, gained, lost, neither: the true gain is 0.02
    covered = 0
    for counts in random.multinomial(359, table, size=2000):
        found = paired_gain(*flags(*counts))
        covered += found.low <= 0.02 <= found.high
    assert 0.94 <= covered / 2000 <= 0.97


def split_of(count: int, *, channels: int = 3, size: int = 8) -> Split:
    random = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=random)
    return Split(images=images, labels=torch.arange(count) % 7, ids=torch.arange(count) + 100)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_prediction_is_in_order_and_does_not_depend_on_the_batch(batch_size: int) -> None:
    split, model = split_of(20), network()
    found = predict(model, split, mean=MEAN, std=STD, device="cpu", batch_size=batch_size)
    model.eval()
    with torch.no_grad():
        oracle = model((split.images / 255 - 0.5) / 0.25)
    assert found.shape == (20, 7)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, oracle, atol=1e-5, rtol=1e-5)


def test_prediction_changes_nothing_about_the_network() -> None:
    split, model = split_of(20), network()
    model.train()
    model[1].eval()  # a frozen norm inside a network in training, as in fine-tuning
    state = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, split, mean=MEAN, std=STD, device="cpu")
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_training_flags_are_given_back_when_the_network_fails() -> None:
    model = network().train()
    with pytest.raises(RuntimeError, match="expected input"):
        predict(model, split_of(4, channels=1), mean=(0.5,), std=(0.2,), device="cpu")
    assert all(module.training for module in model.modules())


def test_predicted_logits_may_be_used_in_training() -> None:
    logits = predict(network(), split_of(8), mean=MEAN, std=STD, device="cpu")
    weight = torch.ones(7, requires_grad=True)
    (logits * weight).sum().backward()
    assert weight.grad is not None


def test_disagreements_are_the_images_told_apart_most_with_their_true_names() -> None:
    split = split_of(50)
    student, _ = answers(50, seed=1)
    teacher, _ = answers(50, seed=2)
    found = disagreements(split, student_logits=student, teacher_logits=teacher, classes=CLASSES, count=5)
    p, q = softmax(teacher), softmax(student)
    kl = (p * np.log(p / q)).sum(1)
    worst = [row for row in np.argsort(-kl) if p[row].argmax() != q[row].argmax()][:5]
    assert [one.image_id for one in found] == [row + 100 for row in worst]
    for one, row in zip(found, worst, strict=True):
        assert one.kl == pytest.approx(kl[row])
        assert one.label == CLASSES[row % 7]
        assert one.teacher == CLASSES[p[row].argmax()]
        assert one.student == CLASSES[q[row].argmax()]


def test_networks_that_agree_have_no_disagreements() -> None:
    logits, _ = answers(10)
    assert disagreements(split_of(10), student_logits=logits * 2, teacher_logits=logits, classes=CLASSES) == ()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_thumbnail_is_a_png_of_the_very_pixels(channels: int, mode: str) -> None:
    image = split_of(1, channels=channels).images[0]
    kind, _, content = thumbnail(image).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        assert np.array_equal(np.asarray(picture).reshape(8, 8, channels), image.permute(1, 2, 0).numpy())


def test_a_thumbnail_of_a_large_image_is_small() -> None:
    _, _, content = thumbnail(torch.zeros(3, 300, 200, dtype=torch.uint8)).partition(",")
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert max(picture.size) == 96
