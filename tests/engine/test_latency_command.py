"""`python -m engine.latency` repeats a job's measurement from its spec and weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from distillery.report import (
    Estimated,
    LatencyReport,
    Percentile,
    ServedRate,
    ServerResult,
    Sweep,
    SweepPoint,
)
from distillery.spec import parse
from engine.data.readers import load
from engine.latency.__main__ import main, table
from engine.weights import save_safetensors
from models import build

SPEC = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet8", "train": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "latency": {"runtimes": ["eager"], "batch_sizes": [4], "threads": 2, "seconds": 8},
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
    assert (job / "out" / "latency_samples.parquet").read_bytes().startswith(b"PAR1")
    page = (job / "out" / "latency.html").read_text()
    assert "Every call stands in latency_samples.parquet" in page
    assert 'class="line teacher" d="M' in page and 'class="line student" d="M' in page
    assert "eager        cpu        4 teacher" in done.stdout
    assert f"  {comparison.verdict}: {comparison.speedup.value:.2f} times" in done.stdout


def test_the_table_tells_every_batch_size_and_every_rate() -> None:
    sweep = Sweep(
        model="student", runtime="eager", device="cpu", threads=1, rounds=12, best_batch_size=2, stopped_by="time",
        points=tuple(
            SweepPoint(
                batch_size=size, p50_seconds=0.1, images_per_second=Estimated(value=10.0 * size, low=9.5, high=21)
            )
            for size in (1, 2)
        ),
        stopped="Time was up before a batch of 4.", notes=("Late.",),
    )  # fmt: skip
    told, untold = Percentile(seconds=0.0123), Percentile(seconds=None, reason="given up")
    rates = tuple(
        ServedRate(
            requests_per_second=rate, n=400, cut_short=not met, utilisation=0.5, p50=p99, p95=p99, p99=p99, met=met
        )
        for rate, met, p99 in ((40.0, True, told), (80.0, False, untold))
    )  # fmt: skip
    server = ServerResult(
        model="teacher", runtime="eager", device="cpu", threads=1, input="end_to_end", objective_seconds=0.05,
        service_seconds=0.01, highest_rate=40.0, lowest_missed=80.0, rates=rates, notes=("Busy.",),
    )  # fmt: skip
    report = LatencyReport(
        protocol="p", comparisons=(), sweeps=(sweep,), servers=(server,), environment={}, weights_sha256={},
        repeat_with="-",
    )  # fmt: skip
    assert [" ".join(line.split()) for line in table(report)][1:] == [
        "batch sweep, eager on cpu, model, student: best 2, Time was up before a batch of 4.",
        "1 10.0 images/s (9.5 to 21.0)",
        "2 20.0 images/s (9.5 to 21.0)",
        "Late.",
        "server, eager on cpu, end_to_end, teacher: up to 40.0 requests/s with p99 within 50.000 ms",
        "40.0 requests/s 12.300 ms p50 12.300 ms p99 met",
        "80.0 requests/s - ms p50 - ms p99 missed",
        "Busy.",
    ]


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
