"""What can be known to fail before training is refused before training, with the field that is at fault."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distillery.errors import DistilleryError, InvalidRequest, UnknownName, UnreadableData, UnusableWeights
from distillery.spec.dataset import DigitsData
from distillery.spec.training import Training
from engine import preflight
from engine.data.dataset import Dataset, Split
from engine.data.readers import load


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DigitsData())


def rows(split: Split, keep: torch.Tensor) -> Split:
    return Split(images=split.images[keep], labels=split.labels[keep], ids=split.ids[keep])


def test_sound_data_passes_without_a_warning(digits: Dataset) -> None:
    assert preflight.check_data(digits) == ()


def test_one_class_is_refused(digits: Dataset) -> None:
    only = {
        name: rows(getattr(digits, name), getattr(digits, name).labels == 0) for name in ("train", "validation", "test")
    }
    with pytest.raises(UnreadableData, match="has 1 class"):
        preflight.check_data(replace(digits, classes=("0",), **only))


def test_a_class_without_training_images_is_named(digits: Dataset) -> None:
    lacking = replace(digits, train=rows(digits.train, digits.train.labels != 7))
    with pytest.raises(UnreadableData, match="no image of the class '7'"):
        preflight.check_data(lacking)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_an_empty_split_is_named(digits: Dataset, name: str) -> None:
    empty = rows(digits.test, torch.zeros(len(digits.test), dtype=torch.bool))
    with pytest.raises(UnreadableData, match=f"The {name} split of 'digits' is empty"):
        preflight.check_data(replace(digits, **{name: empty}))


def test_an_image_in_two_splits_is_refused(digits: Dataset) -> None:
    leaking = replace(digits, test=rows(digits.train, torch.arange(10)))
    with pytest.raises(UnreadableData, match="10 images of 'digits' stand in more than one split"):
        preflight.check_data(leaking)


def test_few_test_images_and_absent_classes_are_warned_of(digits: Dataset) -> None:
    warnings = preflight.check_data(replace(digits, test=rows(digits.test, digits.test.labels < 4)))
    assert len(warnings) == 2
    assert "test split has no image of 6 of the 10 classes" in warnings[0]
    assert f"{int((digits.test.labels < 4).sum())} images" in warnings[1]


def test_the_device_and_precision_asked_for_are_given() -> None:
    assert preflight.check_device(Training(device="cpu", precision="fp32")) == (torch.device("cpu"), "fp32")
    assert preflight.check_device(Training(device="cpu", precision="bf16")) == (torch.device("cpu"), "bf16")


def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InvalidRequest, match="cuda") as caught:
        preflight.check_device(Training(device="cuda"))
    assert caught.value.pointer == "/training/device"


def fits(name: str, *, image_size: int = 32, channels: int = 3) -> None:
    preflight.check_architecture(
        name, pointer="/student/architecture", classes=10, image_size=image_size, channels=channels
    )


def test_networks_that_can_be_built_pass() -> None:
    fits("resnet56")
    fits("torchvision/resnet18", channels=1)


def test_an_unknown_network_is_told_with_its_field() -> None:
    with pytest.raises(UnknownName) as caught:
        fits("resnet57")
    assert caught.value.pointer == "/student/architecture"
    assert caught.value.hint


def test_images_too_small_for_a_network_are_told_with_its_field() -> None:
    with pytest.raises(DistilleryError) as caught:
        fits("torchvision/inception_v3", image_size=4)
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.pointer == "/student/architecture"


IMAGES = torch.rand(2, 1, 8, 8)


def asked(model: nn.Module, *, role: str = "teacher", precision: preflight.Precision = "fp32") -> None:
    preflight.check_forward(model, IMAGES, classes=10, role=role, device="cpu", precision=precision)


def linear(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_answers_passes_and_keeps_its_state(precision: preflight.Precision) -> None:
    model = linear().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked(model, role="student", precision=precision)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_answers_that_are_not_finite_are_refused() -> None:
    model = linear()
    with torch.no_grad():
        model[1].weight[3, 3] = float("nan")
    with pytest.raises(UnusableWeights, match="The teacher answers with numbers that are not finite") as caught:
        asked(model)
    assert caught.value.pointer == "/teacher"


def test_answers_for_another_number_of_classes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"answers with \(2, 100\); expected logits of \(2, 10\)"):
        asked(linear(100))


def test_a_network_for_another_image_size_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
    with pytest.raises(InvalidRequest, match=r"The student cannot read images of shape \(1, 8, 8\)") as caught:
        asked(model, role="student")
    assert caught.value.pointer == "/student/architecture"


@pytest.mark.parametrize(
    ("classes", "minimum", "floor"),
    [(10, None, 0.2), (100, None, 0.02), (2, None, 0.75), (10, 0.75, 0.75), (10, 0.0, 0.0)],
)
def test_the_floor_is_twice_guessing_or_what_is_asked_for(classes: int, minimum: float | None, floor: float) -> None:
    preflight.teacher_floor(floor, classes=classes, minimum=minimum)
    if floor:
        with pytest.raises(UnusableWeights, match="at least") as caught:
            preflight.teacher_floor(floor - 0.001, classes=classes, minimum=minimum)
        assert caught.value.pointer == "/teacher"
        assert "minimum_accuracy" in caught.value.hint


def test_a_teacher_whose_accuracy_is_unknown_is_refused() -> None:
    with pytest.raises(UnusableWeights):
        preflight.teacher_floor(float("nan"), classes=10)
