"""Warnings and estimates: what is allowed and seldom meant, and what a job may take."""

from typing import Any, get_args

import pytest

from app.checks import warnings_about
from app.estimate import TORCHVISION_SIZES, estimate, known_images
from distillery.spec import parse, resolve
from distillery.spec.dataset import TorchvisionData
from distillery.views import Interval

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
FOLDER = {"kind": "image_folder", "path": "flowers"}


def taught(architecture: str) -> dict[str, Any]:
    """A teacher trained in the job."""
    return {"architecture": architecture, "train": {"epochs": 1}}


def warned(**changes: Any) -> str:
    """The warnings about the spec with these fields changed, as one text."""
    return " ".join(warnings_about(resolve(parse(SPEC | changes))))


def test_an_ordinary_spec_is_not_warned_of() -> None:
    assert warned() == ""
    assert warned(dataset={"name": "fashion-mnist", "augment": ["crop", "flip"]}) == ""


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {
                "student": {"architecture": "seed_teacher"},
                "teacher": {"architecture": "seed_student", "train": {"epochs": 1}},
            },
            "saves nothing",
        ),
        ({"student": {"architecture": "seed_teacher"}}, "saves nothing"),
        ({"baseline": False}, "whether the teacher helped"),
        ({"method": {"objective": [{"term": "cross_entropy", "weight": 1}]}}, "uses the teacher"),
        (
            {"method": {"objective": [{"term": "cross_entropy"}, {"term": "soft_targets", "weight": 0}]}},
            "uses the teacher",
        ),
        ({"method": {"objective": [{"term": "soft_targets", "temperature": 1}]}}, "temperature 1"),
        (
            {"dataset": FOLDER | {"image_size": 96}, "teacher": taught("torchvision/inception_v3")},
            "made for 299 pixels",
        ),
        ({"training": {"epochs": 3, "schedule": {"name": "cosine", "warmup_epochs": 3}}}, "full learning rate"),
        ({"training": {"optimizer": {"name": "adamw", "lr": 0.1}}}, "mostly diverges"),
        ({"training": {"batch_size": 4096}}, "one step an epoch"),
        ({"dataset": {"name": "digits", "augment": ["flip"]}}, "other characters"),
        ({"dataset": {"kind": "torchvision", "name": "SVHN", "root": "x", "augment": ["flip"]}}, "other characters"),
    ],
)
def test_what_is_seldom_meant_is_warned_of(changes: dict[str, Any], warning: str) -> None:
    assert warning in warned(**changes)


@pytest.mark.parametrize(
    ("dataset", "train"),
    [
        ({"name": "digits"}, 1294),
        ({"kind": "digits"}, 1294),
        ({"kind": "digits", "test": 0.5, "validation": 0.5}, 450),
        ({"kind": "digits", "limit": 100}, 100),
        ({"kind": "torchvision", "name": "CIFAR10", "root": "x"}, 45_000),
    ],
)
def test_what_is_known_of_the_data_is_counted_without_reading_it(dataset: dict[str, Any], train: int) -> None:
    images = known_images(parse(SPEC | {"dataset": dataset}))
    assert images is not None
    assert images.train == train


def seconds(**changes: Any) -> Interval:
    """The estimated time of the digits with these fields changed."""
    found = estimate(resolve(parse(SPEC | changes))).seconds
    assert found is not None
    return found


def test_the_estimate_grows_with_the_work() -> None:
    plain = seconds()
    assert 0 < plain.low < plain.high
    for more in (
        seconds(training={"epochs": 100}),
        seconds(teacher={"architecture": "seed_teacher", "train": {"epochs": 200}}),
        seconds(dataset={"name": "digits", "image_size": 64}),
        seconds(latency={"batch_sizes": [1, 8, 32]}),
    ):
        assert more.low > plain.low
        assert more.high > plain.high
    assert seconds(baseline=False).high < plain.high
    assert seconds(latency=None).low < plain.low


def test_memory_and_artifacts_are_estimated_for_any_data() -> None:
    told = estimate(resolve(parse(SPEC | {"dataset": FOLDER})))
    assert told.seconds is None
    assert "only the worker can see" in told.notes[0]
    assert 300_000_000 < told.memory_bytes.low < told.memory_bytes.high
    assert 620_362 * 4 <= told.artifact_bytes.low < told.artifact_bytes.high
    larger = estimate(resolve(parse(SPEC | {"dataset": FOLDER, "training": {"batch_size": 8192}})))
    assert larger.memory_bytes.high > told.memory_bytes.high


def test_every_torchvision_data_set_is_known() -> None:
    assert set(TORCHVISION_SIZES) == set(get_args(TorchvisionData.model_fields["name"].annotation))
