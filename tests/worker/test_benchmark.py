"""The program of a benchmark as its supervisor starts it: what it loads, what it tells, and how it leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distillery.errors import DistilleryError
from distillery.spec import parse_benchmark
from distillery.spec.dataset import DigitsData
from distillery.spec.preprocessing import Preprocessing
from engine.black_box import OnnxNetwork
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.export import export_onnx
from engine.renormalised import Renormalised
from engine.weights import save_safetensors
from models import build
from store import benchmarks
from worker.attempt import Programs
from worker.benchmark_plan import Plan
from worker.contestants import contestants
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_SAVED,
    Benchmarked,
    Delivered,
    Failed,
    Message,
    Progressed,
    Warned,
)
from worker.messages import parse as message_of

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = {"kind": "digits", "image_size": 8}
JOB = "job_" + "0" * 26


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DigitsData(image_size=8))


@pytest.fixture
def weights(tmp_path: Path, digits: Dataset) -> Callable[..., Path]:
    """Makes the file of a network as a job delivers it, with what its header tells changed."""

    def made(name: str, architecture: str, *, classes: int = 10, **told: Any) -> Path:
        torch.manual_seed(len(name))
        network = build(architecture, classes=classes, image_size=8, channels=1)
        header = {
            "architecture": architecture, "mean": json.dumps(list(digits.mean)), "std": json.dumps(list(digits.std)),
            "classes": json.dumps([str(each) for each in range(classes)]),
        }  # fmt: skip
        path = tmp_path / f"{name}.safetensors"
        save_safetensors(network, path, metadata=header | {key: json.dumps(value) for key, value in told.items()})
        return path

    return made


def plan_of(files: dict[str, Path], **measure: Any) -> Plan:
    measured = {"runtimes": ["eager"], "batch_sizes": [4], "seconds": 1, **measure}
    models = [{"job": JOB, "name": name} for name in files]
    spec = {"name": "a <try>", "models": models, "dataset": DIGITS, "measure": measured}
    planned = [{"name": name, "file": str(path)} for name, path in files.items()]
    return Plan.model_validate({"spec": spec, "models": planned})


@contextmanager
def started(plan: Plan, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[Message]]]:
    """The program, and what it tells, line by line."""
    path = folder / "plan.json"
    path.write_text(plan.model_dump_json())
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "worker.benchmark", path, "--out", folder / "out", "--events-fd", str(writing)]
    environment = os.environ | {"DISTILLERY_DEVICE_LOCKS": str(folder / "locks")}
    with subprocess.Popen(command, pass_fds=(writing,), cwd=REPOSITORY, env=environment) as process:
        os.close(writing)
        with os.fdopen(reading) as lines:
            yield process, (message_of(line) for line in lines)


def black_box(path: Path, digits: Dataset) -> Path:
    """A network that was trained elsewhere, on images from 0 to 1, as a graph that tells so."""
    torch.manual_seed(5)
    bare = path.with_name("bare.onnx")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    export_onnx(network, bare, channels=1, image_size=8)
    expects = Preprocessing(image_size=8, channels=1, mean=(0.0,), std=(1.0,))
    path.write_bytes(OnnxNetwork(bare.read_bytes(), preprocessing=expects, classes=10).described())
    return path


def test_a_benchmark_is_measured_and_told_with_every_file(
    weights: Callable[..., Path], tmp_path: Path, digits: Dataset
) -> None:
    files = {
        "big": weights("big", "resnet14"), "other": weights("other", "resnet8", mean=[0.0]),
        "box": black_box(tmp_path / "box.onnx", digits),
    }  # fmt: skip
    with started(plan_of(files, runtimes=["eager", "onnxruntime"]), tmp_path) as (process, lines):
        told = list(lines)
    assert process.returncode == EXIT_FINISHED
    assert isinstance(told[-1], Benchmarked)
    report = told[-1].result
    assert [(each.rows[1].model, each.runtime) for each in report.comparisons] == [
        ("other", "eager"), ("other", "onnxruntime"), ("box", "onnxruntime"),
    ]  # fmt: skip
    assert any("'box' is an ONNX graph" in note and "'box' in eager" in note for note in report.notes)
    assert [each.message for each in told if isinstance(each, Warned)] == [report.notes[0]]
    assert "'other' was trained on images of another normalisation" in report.notes[0]
    delivered = [each for each in told if isinstance(each, Delivered)]
    assert {each.name for each in delivered} == {
        "benchmark.json", "benchmark.csv", "benchmark.html", "benchmark_samples.parquet", "reproduce.yaml",
    }  # fmt: skip
    assert all(Path(each.path).stat().st_size == each.size_bytes for each in delivered)
    steps = [each.progress.step for each in told if isinstance(each, Progressed)]
    assert steps == sorted(steps) and (steps[0], steps[-1]) == (0, 2)


def test_what_cannot_be_measured_here_is_told_with_the_reason(weights: Callable[..., Path], tmp_path: Path) -> None:
    with started(plan_of({"one": weights("one", "resnet8")}, devices=["cuda"]), tmp_path) as (process, lines):
        told = list(lines)
    assert process.returncode == EXIT_FAILED
    assert isinstance(told[-1], Failed)
    assert "eager on cuda, because PyTorch finds no CUDA device here" in told[-1].error.detail
    assert told[-1].error.pointer == "/measure"


def test_a_program_that_is_asked_to_leave_leaves_between_blocks(weights: Callable[..., Path], tmp_path: Path) -> None:
    plan = plan_of({"one": weights("one", "resnet8"), "two": weights("two", "resnet14")}, seconds=600, rounds=5000)
    with started(plan, tmp_path) as (process, lines):
        next(each for each in lines if isinstance(each, Progressed))
        process.send_signal(signal.SIGTERM)
        told = list(lines)
    assert process.returncode == EXIT_SAVED
    assert not any(isinstance(each, Benchmarked | Delivered) for each in told)


def test_a_benchmark_waits_while_the_device_is_in_use(weights: Callable[..., Path], tmp_path: Path) -> None:
    from engine.device_lease import DeviceLease

    plan = plan_of({"one": weights("one", "resnet8")})
    with DeviceLease("cpu", folder=tmp_path / "locks").shared(), started(plan, tmp_path) as (process, lines):
        waiting = [next(each for each in lines if isinstance(each, Progressed)) for _ in range(2)]
        assert [each.progress.step for each in waiting] == [0, 0]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert not any(isinstance(each, Benchmarked) for each in lines)
    assert process.returncode == EXIT_SAVED


def test_a_model_of_other_classes_is_refused_by_its_place(weights: Callable[..., Path]) -> None:
    plan = plan_of({"good": weights("good", "resnet8"), "seven": weights("seven", "resnet8", classes=7)})
    with pytest.raises(
        DistilleryError, match=r"'seven' cannot be measured on this data\. It knows 7 classes"
    ) as refused:
        contestants(plan, stored=None)
    assert refused.value.pointer == "/models/1"


def test_a_damaged_file_is_refused_by_its_place(weights: Callable[..., Path]) -> None:
    path = weights("bad", "resnet8")
    path.write_bytes(path.read_bytes()[:200])
    plan = plan_of({"good": weights("good", "resnet8"), "bad": path})
    with pytest.raises(DistilleryError, match="'bad' cannot be measured") as refused:
        contestants(plan, stored=None)
    assert refused.value.pointer == "/models/1"


def test_models_see_the_images_as_they_were_trained_on_them(weights: Callable[..., Path], digits: Dataset) -> None:
    files = {"first": weights("first", "resnet8", mean=[0.25], std=[0.5]), "second": weights("second", "resnet8")}
    (first, second), dataset, notes = contestants(plan_of(files), stored=None)
    assert (dataset.mean, dataset.std) == ((0.25,), (0.5,))
    assert not isinstance(first.contestant.network, Renormalised)
    assert isinstance(second.contestant.network, Renormalised) and "'second'" in notes[0]
    plain, *_ = contestants(plan_of({"second": files["second"]}), stored=None)
    pixels = torch.rand(4, 1, 8, 8)
    as_trained = (pixels - digits.mean[0]) / digits.std[0]
    with torch.inference_mode():
        expected = plain[0].contestant.network(as_trained)
        torch.testing.assert_close(second.contestant.network((pixels - 0.25) / 0.5), expected)


def test_a_benchmark_that_is_killed_is_tried_again(embedded: Any, tmp_path: Path) -> None:
    job_id = embedded.submit(steps="2")
    assert embedded.run_one()
    with embedded.database.transaction() as session:
        asked = benchmarks.request_of_models(session, parse_benchmark({"models": [{"job": job_id}]}))
    script = tmp_path / "die.py"
    script.write_text("import json, os, sys\nprint(json.load(open(sys.argv[1]))['models'])\nos.kill(os.getpid(), 9)\n")
    assert embedded.run_one(programs=Programs(benchmark=(sys.executable, str(script))))
    with embedded.database.read() as session:
        assert benchmarks.get(session, asked.id).status == "queued"
    log = embedded.content(asked.id, "trainer.log").decode()
    assert f"{job_id}/student" in log and "model0.safetensors" in log


def test_each_kind_of_work_has_its_program() -> None:
    assert list(Programs().of("benchmark"))[-1] == "worker.benchmark"
