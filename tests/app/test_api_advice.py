"""Warnings and estimates: what is allowed and seldom meant, and what a job may take."""

from typing import Any, get_args

import pytest

from app.advice import warnings_about
from app.estimate import estimate
from app.known_data import TORCHVISION_SIZES, known_images
from app.workload import runs
from distillery.spec import parse, resolve
from distillery.spec.dataset import TorchvisionData
from distillery.views import Interval

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
FOLDER = {"kind": "image_folder", "path": "flowers"}
LONG = {"name": "cosine", "warmup_epochs": 5}
LATE = {"term": "soft_targets", "warmup_epochs": 50}


def taught(architecture: str) -> dict[str, Any]:
    """A teacher trained in the job."""
    return {"architecture": architecture, "train": {"epochs": 1}}


def warned(**changes: Any) -> str:
    """The warnings about the spec with these fields changed, as one text."""
    return " ".join(warnings_about(parse(SPEC | changes)))


BARE = {"architecture": "seed_teacher"}
GIVEN = {"architecture": "seed_teacher", "weights": "teacher.safetensors"}
ONLINE: dict[str, Any] = {"method": {"strategy": "online"}, "teacher": BARE}
ITSELF: dict[str, Any] = {"method": {"strategy": "self_distillation"}, "teacher": None}
FREE: dict[str, Any] = {"method": {"strategy": "data_free"}, "teacher": GIVEN}
CRD = {"objective": [{"term": "cross_entropy"}, {"term": "crd"}]}


def test_an_ordinary_spec_is_not_warned_of() -> None:
    for changes in (
        {},
        {"dataset": {"name": "fashion-mnist", "augment": ["crop", "flip"]}},
        {"method": {"preset": "dkd"}, "training": {"epochs": 240}},
        {"method": {"preset": ["kd", "crd"]}},
        {"teacher": [taught("seed_teacher"), taught("resnet56")], "seeds": 3},
        {"assistants": [{"architecture": "resnet56"}, {"architecture": "resnet44"}]},
        ONLINE,
        ONLINE | {"teacher": [{"architecture": "seed_student"}, BARE]},
        ITSELF,
        FREE,
        FREE | {"dataset": {"name": "digits"}, "training": {"batch_size": 4096}},
    ):
        assert warned(**changes) == "", changes


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
        ({"teacher": [taught("seed_teacher"), taught("resnet8")]}, "(resnet8, 75,290): distilling it saves nothing"),
        ({"assistants": [{"architecture": "resnet8"}]}, "assistant resnet8 (75,290 parameters) is not between"),
        (
            {"assistants": [{"architecture": "resnet44"}, {"architecture": "resnet56"}]},
            "resnet56 (853,018 parameters) is not between resnet44 (658,586)",
        ),
        ({"assistants": [{"architecture": "seed_teacher"}]}, "not between seed_teacher (12,976,266)"),
        (
            {
                "assistants": [
                    {"architecture": "resnet56", "train": {"epochs": 2, "optimizer": {"name": "adamw", "lr": 1}}}
                ]
            },
            "(assistants.0.train) mostly diverges",
        ),
        (
            {"teacher": [taught("seed_teacher"), {**taught("resnet56"), "train": {"epochs": 2, "schedule": LONG}}]},
            "warm-up of teacher.members.1.train lasts all its 2 epochs",
        ),
        ({"method": {"preset": "dkd"}}, "weight of dkd rises to its full value over 20 epochs"),
        ({"method": {"preset": "reviewkd"}}, "ends after 10: it gets no further than 50% of it"),
        ({"method": {"preset": "dkd"}, "training": {"epochs": 20}}, "only the last epoch has all of it"),
        (FREE | {"method": FREE["method"] | {"objective": [LATE]}}, "weight of soft_targets rises"),
        (ONLINE | {"method": ONLINE["method"] | {"objective": [{"term": "cross_entropy"}]}}, "uses the teacher"),
        ({"method": CRD, "training": {"batch_size": 2048}, "dataset": FOLDER}, "crd takes about 2.7 GB of memory"),
        ({"method": {"objective": [{"term": "crd", "negatives": 1_000_000}]}}, "crd takes about 10.2 GB"),
        (
            {"method": {"objective": [{"term": "crd", "pairs": [{"student": "a", "teacher": "b"}] * 2}]}},
            "only the last of its 2 pairs",
        ),
        (FREE | {"baseline": True}, "no labels to train the baseline on"),
        (FREE | {"dataset": {"name": "digits", "limit": 100}}, "dataset.limit is not used"),
        (FREE | {"teacher": GIVEN | {"minimum_accuracy": 0.5}}, "minimum_accuracy is not used"),
        (FREE | {"training": {"epochs": 5}}, "waits for 5 epochs, and the training ends after 5: it is never used"),
        (
            FREE | {"method": FREE["method"] | {"synthesis": {"name": "fast", "pool": 16}}},
            "a batch of 128 repeats them",
        ),
        (ONLINE | {"teacher": BARE | {"minimum_accuracy": 0.5}}, "the teachers begin untrained"),
        (ONLINE | {"teacher": {"members": [BARE, BARE], "merge": "mean_logits"}}, "teacher.merge is not used"),
        (ITSELF | {"baseline": False}, "whether the teacher helped"),
        ({"dataset": {"name": "digits", "augment": ["flip"]}}, "other characters"),
        ({"dataset": {"kind": "torchvision", "name": "SVHN", "root": "x", "augment": ["flip"]}}, "other characters"),
    ],
)
def test_what_is_seldom_meant_is_warned_of(changes: dict[str, Any], warning: str) -> None:
    assert warning in warned(**changes)


def test_what_the_schema_fills_in_is_no_wish() -> None:
    assert "baseline" not in warned(**FREE)
    assert "temperature 1" not in warned(**ONLINE)
    assert "merge" not in warned(**ONLINE | {"teacher": [BARE, BARE]})
    assert "uses the teacher" not in warned(**ITSELF) + warned(**FREE)


def test_a_warning_is_not_given_twice() -> None:
    small = {"dataset": FOLDER | {"image_size": 96}, "teacher": [taught("torchvision/inception_v3")] * 3}
    found = warnings_about(parse(SPEC | small))
    assert len(found) == 1
    assert len(warnings_about(parse(SPEC | small | {"student": {"architecture": "torchvision/inception_v3"}}))) == 3


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


def test_the_estimate_grows_with_teachers_assistants_and_seeds() -> None:
    plain, several = seconds(), seconds(teacher=[taught("seed_teacher"), taught("resnet56")])
    for less, more in (
        (plain, seconds(seeds=3)),
        (seconds(seeds=3), seconds(seeds=4)),
        (seconds(teacher=taught("seed_teacher")), several),
        (plain, seconds(assistants=[{"architecture": "resnet56"}])),
        (seconds(**ONLINE), seconds(**ONLINE | {"teacher": [BARE, BARE]})),
        (seconds(**ITSELF | {"latency": None}), seconds(**ITSELF | {"latency": None, "seeds": 2})),
        (seconds(**FREE), seconds(**FREE | {"teacher": [GIVEN, GIVEN]})),
        (seconds(**FREE), free(steps_per_epoch=1000)),
        (seconds(**FREE), free(synthesis={"name": "fast", "synthesis_steps": 500})),
        (seconds(**FREE), free(synthesis={"name": "fast", "synthesis_batches": 50})),
        (seconds(**FREE), seconds(**FREE | {"dataset": {"name": "digits", "image_size": 32}})),
        (free(synthesis={"name": "fast"}), free(synthesis={"name": "dafl"})),
    ):
        assert less.low < more.low
        assert less.high < more.high
    # A teacher that is trained along costs its gradients at every step, one that is given only its answers.
    assert seconds(teacher=GIVEN).high < seconds(**ONLINE).high
    # Early exits are timed one by one, and nothing else is.
    assert seconds(**ITSELF).low > seconds(**ITSELF | {"method": ITSELF["method"] | {"deliver_exits": False}}).low


def free(**method: Any) -> Interval:
    """The estimated time of a data-free job."""
    return seconds(**FREE | {"method": FREE["method"] | method})


def test_the_trainings_of_a_job_are_told_in_order() -> None:
    changes = {
        "teacher": [taught("seed_teacher"), GIVEN | {"architecture": "resnet20"}],
        "assistants": [{"architecture": "resnet56"}, {"architecture": "resnet44", "train": {"epochs": 3}}],
        "seeds": 2,
    }
    planned = runs(resolve(parse(SPEC | changes)), train_images=1000)
    assert [(run.learners, run.asked, run.epochs, run.times, run.steps) for run in planned] == [
        (("seed_teacher",), (), 1, 1, 8),
        (("resnet56",), ("seed_teacher", "resnet20"), 10, 1, 80),
        (("resnet44",), ("resnet56",), 3, 1, 24),
        (("seed_student",), ("resnet44",), 10, 2, 160),
        (("seed_student",), (), 10, 2, 160),
    ]
    (together, alone) = runs(resolve(parse(SPEC | ONLINE)), train_images=1000)
    assert (together.learners, together.asked) == (("seed_student", "seed_teacher"), ())
    assert alone.learners == ("seed_student",)
    (made_up,) = runs(resolve(parse(SPEC | FREE)), train_images=1000)
    assert (made_up.asked, made_up.steps) == (("seed_teacher",), 1000)
    assert made_up.making > 0


def test_the_notes_say_what_the_figures_rest_on() -> None:
    def notes(**changes: Any) -> str:
        return " ".join(estimate(resolve(parse(SPEC | changes))).notes)

    assert "With 3 seeds student and baseline are trained 3 times, all else once." in notes(seeds=3)
    assert "the student is trained 3 times" in notes(seeds=3, baseline=False)
    assert "With" not in notes()
    unread = estimate(resolve(parse(SPEC | FREE | {"dataset": FOLDER})))
    assert unread.seconds is not None
    assert "The final test is not counted" in unread.notes[0]
    assert "rough guess" in notes(**FREE)


def test_memory_and_artifacts_are_estimated_for_any_data() -> None:
    told = estimate(resolve(parse(SPEC | {"dataset": FOLDER})))
    assert told.seconds is None
    assert "only the worker can see" in told.notes[0]
    assert 300_000_000 < told.memory_bytes.low < told.memory_bytes.high
    assert 620_362 * 4 <= told.artifact_bytes.low < told.artifact_bytes.high
    larger = estimate(resolve(parse(SPEC | {"dataset": FOLDER, "training": {"batch_size": 8192}})))
    assert larger.memory_bytes.high > told.memory_bytes.high


def test_memory_and_artifacts_grow_with_what_is_held() -> None:
    def told(**changes: Any) -> Any:
        return estimate(resolve(parse(SPEC | {"dataset": FOLDER} | changes)))

    plain, online = told(teacher=GIVEN), told(**ONLINE)
    assert plain.memory_bytes.high < online.memory_bytes.high
    assert plain.artifact_bytes.high < online.artifact_bytes.high
    for more in ({"teacher": [GIVEN, GIVEN]}, {"method": CRD}, {"assistants": [{"architecture": "resnet56"}]}):
        assert plain.memory_bytes.low < told(**{"teacher": GIVEN} | more).memory_bytes.low
    assert told(**FREE).memory_bytes.low > plain.memory_bytes.low
    assert told(seeds=5).artifact_bytes.high > told().artifact_bytes.high
    exits, none = (
        told(**ITSELF | {"method": ITSELF["method"] | {"deliver_exits": each}}).artifact_bytes.high
        for each in (True, False)
    )
    assert exits > none


def test_every_torchvision_data_set_is_known() -> None:
    assert set(TORCHVISION_SIZES) == set(get_args(TorchvisionData.model_fields["name"].annotation))
