"""Trainers and measurements of one machine, each started as a worker starts it, agree whose turn the device is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.device_lease import DeviceLease, locks_folder
from engine.weights import save_safetensors
from models import build
from worker.benchmark_plan import Plan
from worker.process import environment

REPOSITORY = Path(__file__).parents[2]
DIGITS = {"kind": "digits", "image_size": 8, "limit": 200}
LONG = {
    "dataset": DIGITS, "teacher": {"architecture": "resnet8", "train": {"epochs": 9_000}},
    "student": {"architecture": "resnet8"}, "training": {"epochs": 1, "device": "cpu", "threads": 1},
}  # fmt: skip
WAIT_SECONDS = 120.0


class _Gave(Exception):
    """Raised by whoever waits no longer."""


def _give_up() -> None:
    raise _Gave


def _as_a_worker_would(command: list[Any], folder: Path) -> "subprocess.Popen[bytes]":
    """A program with the environment that workers give, where nobody has set the folder of the locks."""
    folder.mkdir()
    given = {name: value for name, value in os.environ.items() if name != "DISTILLERY_DEVICE_LOCKS"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, env=environment(given, scratch=folder), stdout=log, stderr=log
        )


def _until_held(how: str, by: "subprocess.Popen[bytes]") -> None:
    """Wait until this hold on the processor is refused, since `by` has it or waits for it."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        assert by.poll() is None, "it ended without waiting"
        assert time.monotonic() < give_up
        try:
            with getattr(DeviceLease("cpu", on_wait=_give_up), how)():
                pass
        except _Gave:
            return
        time.sleep(0.05)


def test_a_measurement_waits_for_a_trainer_that_has_another_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILLERY_DEVICE_LOCKS")
    job, plan, weights = (tmp_path / name for name in ("job.json", "plan.json", "weights.safetensors"))
    job.write_text(json.dumps(LONG))
    torch.manual_seed(0)
    save_safetensors(
        build("resnet8", classes=10, image_size=8, channels=1), weights, metadata={"architecture": "resnet8"}
    )
    measure = {"runtimes": ["eager"], "devices": ["cpu"], "seconds": 1}
    spec = {"models": [{"job": "job_" + "0" * 26, "name": "one"}], "dataset": DIGITS, "measure": measure}
    given = Plan.model_validate({"spec": spec, "models": [{"name": "one", "file": str(weights)}]})
    plan.write_text(given.model_dump_json())

    trainer = _as_a_worker_would(["-m", "worker.run", job, "--out", tmp_path / "student"], tmp_path / "one")
    try:
        _until_held("alone", by=trainer)
        benchmark = _as_a_worker_would(["-m", "worker.benchmark", plan, "--out", tmp_path / "out"], tmp_path / "other")
        try:
            _until_held("shared", by=benchmark)  # it stands in the turnstile
            assert trainer.poll() is None
            assert not (tmp_path / "out" / "benchmark.json").exists()
        finally:
            trainer.kill()
            trainer.wait()
            code = benchmark.wait(WAIT_SECONDS)
    finally:
        trainer.kill()
    assert code == 0, (tmp_path / "other" / "log").read_text()
    assert (tmp_path / "out" / "benchmark.json").exists()
    assert locks_folder() == Path("/tmp/distillery-devices")
