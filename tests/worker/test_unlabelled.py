"""A student that also learns from unlabelled images: who labels them, who sees them, and what is told."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import InvalidSpec
from distillery.report import Report
from distillery.spec import parse, resolve
from engine.data.dataset import Dataset, Split
from engine.data.readers import load
from engine.loop import Stopped
from models import build
from tests.packing import pack_dataset
from worker.journal import Journal
from worker.lessons import Known
from worker.messages import Delivered, Saved, Warned
from worker.ready import Ready
from worker.study import distil
from worker.unlabelled import with_unlabelled

ID = "dts_" + "0" * 26
LABELLED, UNLABELLED = 200, 150
RECIPE = {
    "epochs": 1, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 0, "device": "cpu", "threads": 1,
    "precision": "fp32",
}  # fmt: skip


class Told(list[Any]):
    def tell(self, message: Any) -> None:
        self.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self if isinstance(message, kind)]


def spec(**changes: Any) -> Any:
    base = {
        "dataset": {"id": ID, "unlabelled": {"id": ID}},
        "teacher": {"architecture": "resnet8", "train": {"epochs": 1}, "minimum_accuracy": 0},
        "student": {"architecture": "resnet8"}, "training": RECIPE, "latency": None, "export": ["safetensors"],
    }  # fmt: skip
    return resolve(parse(base | changes))


def few(split: Split, rows: slice) -> Split:
    return Split(split.images[rows], split.labels[rows], split.ids[rows])


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse({"dataset": {"kind": "digits", "image_size": 8}, "teacher": {"architecture": "resnet8",
        "train": {"epochs": 1}}, "student": {"architecture": "resnet8"}}).dataset)  # fmt: skip


@pytest.fixture(scope="module")
def packed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 labelled training images and 150 unlabelled ones."""
    parts = {"train": slice(LABELLED), "validation": slice(60), "test": slice(100)}
    small = type(digits)(**{**vars(digits), **{name: few(getattr(digits, name), rows) for name, rows in parts.items()}})
    more = digits.train.images[LABELLED : LABELLED + UNLABELLED].numpy()
    return pack_dataset(tmp_path_factory.mktemp("packed") / "digits.dstl", small, unlabelled=more)


def study(job: Any, out: Path, packed: Path, *, stops: tuple[int, ...] = ()) -> Told:
    told, resume = Told(), None
    for attempt, looks in enumerate((*stops, None), 1):
        left = [math.inf if looks is None else looks]

        def stop(left: list[float] = left) -> bool:
            left[0] -= 1
            return left[0] <= 0

        (out / f"a{attempt}").mkdir(parents=True)
        journal = Journal(out / f"a{attempt}", told, job, attempt=attempt, stop_requested=stop)
        try:
            distil(job, journal=journal, teacher_weights={}, stored=packed, resume=resume)
        except Stopped:
            saved = told.of(Saved)
            resume = Path(saved[-1].path) if saved else None
    return told


def artifact(told: Told, name: str) -> bytes:
    return Path(next(message.path for message in told.of(Delivered) if message.name == name)).read_bytes()


def test_student_and_assistants_see_the_unlabelled_images_and_the_baseline_does_not(packed, tmp_path):
    told = study(spec(assistants=[{"architecture": "resnet8"}], method={"preset": ["kd", "crd"]}), tmp_path, packed)
    found = Report.model_validate_json(artifact(told, "report.json"))
    both, alone = math.ceil((LABELLED + UNLABELLED) / 64), math.ceil(LABELLED / 64)
    steps = {curve.key.partition("/")[0]: curve.steps[-1] for curve in found.curves if curve.key.endswith("/loss")}
    assert steps == {"teaching": alone, "assisting1": both, "training": both, "baseline": alone}
    (said,) = [warning for warning in found.warnings if "unlabelled" in warning]
    assert f"{UNLABELLED} unlabelled images" in said and f"{LABELLED} labelled images alone" in said
    assert found.dataset["train_images"] == LABELLED
    assert any("unlabelled" in note for note in found.dataset["notes"])


def test_a_stopped_study_labels_again_and_delivers_the_same_student(packed, tmp_path):
    whole = study(spec(baseline=False), tmp_path / "whole", packed)
    parted = study(spec(baseline=False), tmp_path / "parted", packed, stops=(8, 10))
    assert len({Path(message.path).parent.name for message in parted.of(Saved)}) == 3
    assert artifact(parted, "student.safetensors") == artifact(whole, "student.safetensors")
    assert "baseline" not in whole.of(Warned)[-1].message


def test_the_labels_are_the_likeliest_classes_of_the_merged_teachers(packed, tmp_path):
    job = spec(
        teacher={"members": [{"architecture": "resnet8", "train": {"epochs": 1}}] * 2, "merge": "mean_probabilities"}
    )
    data = load(job.dataset, stored=packed)
    torch.manual_seed(0)
    teachers = [Known("resnet8", build("resnet8", classes=10, image_size=8, channels=1).eval()) for _ in range(2)]
    ready = Ready(job, data, torch.device("cpu"), "fp32", (None, None))
    wider = with_unlabelled(ready, teachers, journal=Journal(tmp_path, Told(), job))
    train, more = wider.dataset.train, slice(LABELLED, None)
    assert len(train) == LABELLED + UNLABELLED and train.ids[more].tolist() == data.unlabelled.ids.tolist()
    scale = (torch.tensor(data.mean).view(1, -1, 1, 1), torch.tensor(data.std).view(1, -1, 1, 1))
    images = (train.images[more].float() / 255 - scale[0]) / scale[1]
    with torch.no_grad():
        shares = sum(teacher.network(images).softmax(1) for teacher in teachers)
    assert (shares.argmax(1) == train.labels[more]).float().mean() > 0.98, "to within rounding"
    assert torch.equal(train.labels[:LABELLED], data.train.labels)
    assert ready.dataset.train is data.train, "the baseline's data is as it was"


def test_nobody_is_asked_where_nobody_is_left_to_learn(packed, tmp_path):
    job = spec()
    data = load(job.dataset, stored=packed)
    ready = Ready(job, data, torch.device("cpu"), "fp32", (None,))
    journal = Journal(tmp_path, Told(), job, finished={"training": None})
    assert with_unlabelled(ready, [], journal=journal) is ready


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"strategy": "online"}, "teacher": {"architecture": "resnet8"}},
        {"method": {"strategy": "self_distillation"}, "teacher": None},
        {"method": {"strategy": "data_free"}, "teacher": {"architecture": "resnet8", "weights": "x.safetensors"}},
    ],
    ids=["online", "self_distillation", "data_free"],
)
def test_a_strategy_without_a_frozen_teacher_or_data_refuses_unlabelled_images(changes):
    with pytest.raises(InvalidSpec) as told:
        spec(**changes)
    assert [(problem.pointer, problem.code) for problem in told.value.problems] == [
        ("/dataset/unlabelled", "UNLABELLED_NOT_USED")
    ]


def test_a_run_without_a_service_reads_packed_files(packed, tmp_path):
    job = spec(dataset={"id": ID, "unlabelled": {"id": "dts_" + "1" * 26}}, baseline=False)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    done = subprocess.run(
        [
            sys.executable, "-m", "worker.run", tmp_path / "job.json", "--out", tmp_path / "out",
            "--dataset", packed, "--unlabelled", packed,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["dataset"]["name"] == ID
    assert any(f"{UNLABELLED} unlabelled images" in warning for warning in told["warnings"])
