"""`python -m engine.latency` repeats a job's measurement from its spec and weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from distillery.report import LatencyReport
from distillery.spec import parse
from engine.data.readers import load
from engine.latency.__main__ import main
from engine.weights import save_safetensors
from models import build

SPEC = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet8", "train": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "latency": {"runtimes": ["eager"], "batch_sizes": [4], "threads": 2},
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with job.json and the weights of both networks."""
    for name in ("teacher", "student"):
        torch.manual_seed(len(name))
        network = build("resnet8", classes=10, image_size=8, channels=1)
        save_safetensors(network, tmp_path / f"{name}.safetensors", metadata={})
    (tmp_path / "job.json").write_text(json.dumps(SPEC))
    return tmp_path


def _arguments(folder: Path, *more: str, job: str = "job.json") -> list[str]:
    weights = [f"--{name}={folder / name}.safetensors" for name in ("teacher", "student")]
    return [f"--job={folder / job}", *weights, f"--out={folder / 'out'}", *more]


def test_the_command_measures_writes_both_files_and_prints_a_table(job: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.latency", *_arguments(job, "--threads=1")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = LatencyReport.model_validate_json((job / "out" / "latency.json").read_bytes())
    (comparison,) = report.comparisons
    assert (comparison.runtime, comparison.batch_size, comparison.threads) == ("eager", 4, 1)
    assert report.repeat_with == (
        "python -m engine.latency --job job.json --teacher teacher.safetensors --student student.safetensors "
        "--threads 1 --out latency"
    )
    assert (job / "out" / "latency_samples.csv").read_text().startswith("runtime,device,batch,round,order,model,call,")
    page = (job / "out" / "latency.html").read_text()
    assert "Every call stands in latency_samples.csv" in page
    assert 'class="line teacher" d="M' in page and 'class="line student" d="M' in page
    assert "eager        cpu        4 teacher" in done.stdout
    assert f"  {comparison.verdict}: {comparison.speedup.value:.2f} times" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latency": {"batch_sizes": [0]}}, "/latency/batch_sizes/0"),
        ({"student": {"architecture": "resnet9"}}, "resnet9"),
        ({"student": {"architecture": "resnet14"}}, "student.safetensors"),
        ({"dataset": {"kind": "idx", "path": "nowhere"}}, "nowhere"),
        ({"provenance": {"data_sha256": "0" * 64}}, "is not the one of the job"),
    ],
)
def test_what_is_wrong_is_said_on_stderr_with_exit_code_1(
    job: Path, change: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "job.json").write_text(json.dumps({**SPEC, **change}))
    assert main(_arguments(job)) == 1
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""
    assert not (job / "out").exists()


def test_threads_out_of_bounds_and_missing_files_are_errors_too(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(job, "--threads=0")) == 1
    assert "/latency/threads" in capsys.readouterr().err
    assert main(_arguments(job, job="absent.json")) == 1
    assert "absent.json cannot be read" in capsys.readouterr().err
    (job / "job.json").write_text("{a: [")
    assert main(_arguments(job)) == 1
    assert "neither JSON nor YAML" in capsys.readouterr().err


def test_the_spec_may_be_yaml_and_its_recorded_data_must_be_the_data(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "teacher.safetensors").unlink()
    recorded = load(parse(SPEC).dataset).sha256
    (job / "job.yaml").write_text(yaml.safe_dump({**SPEC, "provenance": {"data_sha256": recorded}}))
    assert main(_arguments(job, job="job.yaml")) == 1
    assert "teacher.safetensors" in capsys.readouterr().err  # the data were accepted; the weights are what is missing
