"""The demo: the job it makes for what lies in a folder, and a small one run from start to end."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from distillery import demo
from distillery.cli import app
from distillery.errors import InvalidRequest, JobEndedBadly
from distillery.spec import parse

TINY: dict[str, Any] = {
    "name": "demo-tiny",
    "dataset": {"name": "digits", "image_size": 8, "limit": 200},
    "teacher": {"architecture": "resnet14", "train": {"epochs": 1}, "minimum_accuracy": 0.0},
    "student": {"architecture": "resnet8"},
    "training": {"epochs": 1, "batch_size": 64, "seed": 0, "threads": 1},
    "export": ["safetensors"],
    "latency": {"runtimes": ["eager"], "seconds": 1},
}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_the_job_of_the_digits_can_be_printed_and_is_good() -> None:
    printed = CliRunner().invoke(app, ["demo", "--print-spec"]).stdout
    assert parse(yaml.safe_load(printed)) == parse(demo.DIGITS)
    assert json.loads(CliRunner().invoke(app, ["demo", "--print-spec", "--json"]).stdout) == demo.DIGITS


def make_idx(folder: Path) -> Path:
    (folder / "train-images-idx3-ubyte.gz").touch()
    return folder


def make_classes(folder: Path) -> Path:
    (folder / "cat").mkdir()
    return folder


def make_npz(folder: Path) -> Path:
    (folder / "data.npz").touch()
    return folder / "data.npz"


@pytest.mark.parametrize(("make", "kind"), [(make_idx, "idx"), (make_classes, "image_folder"), (make_npz, "npz")])
def test_the_kind_of_data_is_recognised_from_the_files(tmp_path: Path, make: Any, kind: str) -> None:
    path = make(tmp_path)
    dataset = parse(demo.spec_for(path)).dataset
    assert dataset.kind == kind
    assert dataset.path == str(path)  # type: ignore[union-attr]  # each kind here has a path


@pytest.mark.parametrize(("name", "said"), [("absent", "There is nothing at"), (".", "holds no images")])
def test_data_that_the_demo_does_not_know_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        demo.spec_for(tmp_path / name)


def test_a_demo_brings_its_files_home_and_leaves_nothing_running(tmp_path: Path) -> None:
    console, shown = quiet(), quiet()
    result = demo.run(TINY, out=tmp_path, keep=False, server=None, console=console)
    demo.show(result, console=shown)
    for path, sha256 in result.files.items():
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256
    assert {path.name for path in tmp_path.iterdir()} == set(demo.BROUGHT)
    text = shown.file.getvalue()  # type: ignore[attr-defined]  # `quiet` writes into a StringIO
    assert "student alone" in text
    assert f"The student lies at {tmp_path / 'student.safetensors'}." in text.replace("\n", " ")
    assert not [one for one in psutil.process_iter() if str(tmp_path) in " ".join(command_of(one))]
    assert demo.as_json(result)["report"]["quality"]


def test_a_demo_whose_job_fails_says_why_and_keeps_the_logs(tmp_path: Path) -> None:
    spec = TINY | {"dataset": {"kind": "idx", "path": str(tmp_path)}}
    with pytest.raises(JobEndedBadly, match=r"The demo's job failed: .*"):
        demo.run(spec, out=tmp_path / "out", keep=False, server=None, console=quiet())
    assert (tmp_path / "out" / "service" / "logs" / "worker-1.log").exists()
    assert not (tmp_path / "out" / "student.safetensors").exists()


def test_the_service_of_the_demo_does_not_touch_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_DATABASE_URL", "postgresql://127.0.0.1:1/real")
    monkeypatch.setenv("DISTILLERY_HOME", str(tmp_path / "real"))
    with demo._service(tmp_path / "service", keep=True) as url:
        assert url.startswith("http://127.0.0.1:")
    assert (tmp_path / "service" / "distillery.db").exists()
    assert not (tmp_path / "real").exists()


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.pid != os.getpid() else []
    except psutil.Error:
        return []
