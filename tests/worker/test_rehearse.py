"""The trial of a job as its supervisor starts it: a process that tells what it found, or why the job cannot run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import DistilleryError
from distillery.spec import parse, resolve
from distillery.views import Rehearsal
from worker.journal import Journal
from worker.messages import EXIT_FAILED, EXIT_FINISHED, Failed, Message, Rehearsed
from worker.messages import parse as message_of
from worker.preparation import prepare

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = {"kind": "digits", "image_size": 8, "limit": 300}
TRAINED = {"architecture": "resnet14", "train": {"epochs": 1}}
JOB: dict[str, Any] = {
    "dataset": DIGITS,
    "teacher": TRAINED,
    "student": {"architecture": "resnet8"},
    "training": {"epochs": 1, "device": "cpu", "threads": 1, "seed": 0},
}


def rehearsed(job: dict[str, Any], folder: Path) -> tuple[int, list[Message]]:
    """Exit code and messages of `worker.rehearse`."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "worker.rehearse", path, "--out", folder / "out", "--events-fd", str(writing)]
    with subprocess.Popen(command, pass_fds=(writing,), cwd=REPOSITORY) as process:
        os.close(writing)
        with os.fdopen(reading) as lines:
            told = [message_of(line) for line in lines]
    return process.returncode, told


def test_a_job_that_can_run_is_told_with_what_it_will_take(tmp_path):
    code, told = rehearsed(JOB, tmp_path)
    assert code == EXIT_FINISHED
    assert isinstance(told[-1], Rehearsed)
    found: Rehearsal = told[-1].result
    assert (found.device, found.teacher_accuracy) == ("cpu", None)
    assert found.estimate.seconds is not None
    assert 0 < found.estimate.seconds.low < found.estimate.seconds.high
    assert {message.kind for message in told} == {"phase", "rehearsed"}
    assert list((tmp_path / "out").rglob("*.ckpt")) == []


def test_a_job_that_cannot_run_is_told_with_the_field_at_fault(tmp_path):
    code, told = rehearsed({**JOB, "student": {"architecture": "resnet9"}}, tmp_path)
    assert code == EXIT_FAILED
    assert isinstance(told[-1], Failed)
    error = told[-1].error
    assert (error.code, error.pointer) == ("UNKNOWN_NAME", "/student/architecture")
    assert "resnet8" in error.hint


class Silent(list[Message]):
    def tell(self, message: Message) -> None:
        self.append(message)


def hint_of(student: str, teacher: str = "layer2") -> dict[str, Any]:
    return {"objective": [{"term": "hint", "pairs": [{"student": student, "teacher": teacher}]}]}


def given(path: str, **more: Any) -> dict[str, Any]:
    return {"architecture": "resnet14", "weights": path, **more}


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "student": ({"student": {"architecture": "resnet9"}}, "UNKNOWN_NAME", "/student/architecture"),
    "teacher": (
        {"teacher": {"architecture": "resnt20", "train": {"epochs": 1}}}, "UNKNOWN_NAME", "/teacher/architecture",
    ),
    "assistant": ({"assistants": [{"architecture": "vgg"}]}, "UNKNOWN_NAME", "/assistants/0/architecture"),
    "member": (
        {"teacher": [TRAINED, {**TRAINED, "architecture": "resnt20"}]},
        "UNKNOWN_NAME", "/teacher/members/1/architecture",
    ),
    "too small": (
        {"student": {"architecture": "torchvision/inception_v3"}}, "INVALID_REQUEST", "/student/architecture",
    ),
    "student's layer": ({"method": hint_of("layer9")}, "INVALID_REQUEST", "/method/objective/0/pairs"),
    "teacher's layer": ({"method": hint_of("layer2", "layer9")}, "INVALID_REQUEST", "/method/objective/0/pairs"),
    "no file": ({"teacher": given("nowhere.safetensors")}, "UNUSABLE_WEIGHTS", "/teacher/weights"),
    "no file of a member": (
        {"teacher": [given("nowhere.safetensors"), TRAINED]},
        "UNUSABLE_WEIGHTS", "/teacher/members/0/weights",
    ),
    "a job without a service": (
        {"teacher": {"architecture": "resnet14", "job": "job_" + "0" * 26}}, "INVALID_REQUEST", "/teacher",
    ),
    "small images on published weights": (
        {"teacher": {"architecture": "torchvision/resnet18", "weights": "torchvision:DEFAULT"}},
        "IMAGE_SIZE", "/teacher/weights",
    ),
    "other data": ({"provenance": {"data_sha256": "0" * 64}}, "INVALID_REQUEST", "/provenance/data_sha256"),
    "no data": ({"dataset": {"kind": "npz", "path": "nowhere.npz"}}, "UNREADABLE_DATA", "/dataset/path"),
    "no such data": ({"dataset": {"name": "digitz"}}, "UNREADABLE_DATA", "/dataset/name"),
    "onnx of nowhere": (
        {"teacher": {"weights": "nowhere.onnx", "preprocessing": {"image_size": 8, "channels": 1}}},
        "UNUSABLE_WEIGHTS", "/teacher/weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_refusal_has_a_code_a_place_a_cause_and_a_mend(name, tmp_path):
    changes, code, pointer = BROKEN[name]
    job = resolve(parse({**JOB, **changes}))
    with pytest.raises(DistilleryError) as caught:
        prepare(job, journal=Journal(tmp_path, Silent(), job), teacher_weights={})
    assert (caught.value.code, caught.value.pointer) == (code, pointer)
    assert caught.value.detail
    assert caught.value.hint


def test_a_network_for_large_images_is_warned_of_with_others_to_choose(tmp_path):
    job = resolve(
        parse({**JOB, "student": {"architecture": "torchvision/vgg11"}, "dataset": DIGITS | {"image_size": 32}})
    )
    told = Silent()
    journal = Journal(tmp_path, told, job)
    prepare(job, journal=journal, teacher_weights={})
    (warning,) = [each for each in journal.warnings if "was made for images of 224 pixels" in each]
    assert "The student torchvision/vgg11" in warning
    assert "resnet" in warning.rpartition("such as")[2]
