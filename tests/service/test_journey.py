"""The main job as a user does it: submit, watch, download, verify, load, compare latency."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.client import Client
from distillery.views import TERMINAL

DIGITS = {"kind": "digits", "image_size": 8, "test": 0.2, "validation": 0.1}
JOB = {
    "name": "journey",
    "dataset": DIGITS,
    "teacher": {"architecture": "resnet14", "train": {"epochs": 6}},
    "student": {"architecture": "resnet8"},
    "training": {
        "epochs": 4,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "seed": 1,
        "threads": 1,
        "precision": "fp32",
    },
    "latency": {"batch_sizes": [1], "runtimes": ["eager"], "seconds": 1},
}
# Loads the delivered student with torch and safetensors alone: no service, no engine.
LOAD = """
import json, sys
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from models import build

weights, images = sys.argv[1:]
with safe_open(weights, framework="pt") as file:
    facts = file.metadata()
network = build(facts["architecture"], classes=len(json.loads(facts["classes"])),
                image_size=int(facts["image_size"]), channels=int(facts["channels"]))
network.load_state_dict(load_file(weights), strict=True)
network.eval()
split = load_file(images)
shape = (1, -1, 1, 1)
mean, std = (torch.tensor(json.loads(facts[name])).view(shape) for name in ("mean", "std"))
with torch.inference_mode():
    answers = network((split["images"].float() / 255 - mean) / std).argmax(1)
foreign = {"celery", "fastapi", "sqlalchemy", "engine", "store", "worker"} & set(sys.modules)
print(json.dumps({"accuracy": (answers == split["labels"]).double().mean().item(), "foreign": sorted(foreign)}))
"""


def test_the_main_job(service: str, tmp_path: Path) -> None:
    with Client(service) as client:
        job = client.submit(JOB)
        assert job.status == "queued"
        events = list(client.stream(job.id))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type in TERMINAL
        told = {(event.type, event.data["run"]): event for event in events if event.type in ("form", "answers")}
        assert {role for kind, role in told if kind == "form"} == {"teaching", "training", "baseline"}
        counted = told["answers", "training"]
        assert counted.data["asked"] + counted.data["recalled"] == 4 * 1293  # each image of training in each epoch
        assert f"{counted.data['asked']:,} answers" in counted.message

        job = client.wait(job.id, timeout=60)
        assert job.status == "succeeded", job.error
        assert [phase.name for phase in job.phases] == [
            "preparing", "teaching", "training", "baseline", "evaluating", "exporting", "measuring",
        ]  # fmt: skip

        student = client.download(job.id, "student.safetensors", to=tmp_path / "student.safetensors")
        listed = {artifact.name: artifact for artifact in client.artifacts(job.id)}
        assert hashlib.sha256(student.read_bytes()).hexdigest() == listed["student.safetensors"].sha256

        report = client.report(job.id)
        quality = {each.role: each for each in report.quality}
        assert accuracy_of(student, tmp_path) == pytest.approx(quality["student"].top1.value, abs=1e-9)
        assert quality["teacher"].top1.value > 0.9
        assert quality["teacher"].parameters > quality["student"].parameters == quality["baseline"].parameters

        images, labels = some_digits()
        answered = client.predict_job(job.id, arrays=images, values="0-255", top_k=1)
        assert answered.teacher is not None
        assert answered.student.batch_size == answered.teacher.batch_size == 64
        assert np.mean([each.top[0].index for each in answered.teacher.predictions] == labels) > 0.8
        assert answered.student.runtime == "onnxruntime"

        measured = client.measure_latency(job.id, {"batch_sizes": [1], "runtimes": ["onnxruntime"], "seconds": 1})
        assert measured.status == "succeeded", measured.error
        (comparison,) = measured.result.comparisons
        assert comparison.rounds >= 30
        assert comparison.speedup.low <= comparison.speedup.value <= comparison.speedup.high


def some_digits() -> tuple[Any, Any]:
    """64 test images and their labels."""
    from distillery.spec.dataset import DigitsData
    from engine.data.readers import load

    test = load(DigitsData(**DIGITS)).test
    return test.images[:64].numpy(), test.labels[:64].numpy()


def accuracy_of(student: Path, folder: Path) -> float:
    """Test accuracy of a student, measured in a process that has only torch, safetensors and the networks."""
    from safetensors.torch import save_file

    from distillery.spec.dataset import DigitsData
    from engine.data.readers import load

    test = load(DigitsData(**DIGITS)).test
    save_file({"images": test.images.contiguous(), "labels": test.labels}, folder / "test.safetensors")
    command = [sys.executable, "-W", "error", "-c", LOAD, student, folder / "test.safetensors"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["foreign"] == []
    return float(answer["accuracy"])


def test_the_resolved_spec_repeats_the_job(embedded_service: str) -> None:
    with Client(embedded_service) as client:
        first = client.wait(client.submit(JOB | {"latency": None, "export": ["safetensors"]}).id)
        again = client.wait(client.submit(first.resolved_spec).id)
        hashes = [
            {artifact.name: artifact.sha256 for artifact in client.artifacts(job.id)}["student.safetensors"]
            for job in (first, again)
        ]
        assert hashes[0] == hashes[1]
