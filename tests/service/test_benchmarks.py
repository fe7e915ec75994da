"""Benchmarks through a running service: two real students of real teachers, timed by a real worker."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from distillery.cli import app
from distillery.client import Client
from distillery.errors import JobEndedBadly, ServiceRefused

RECIPE = {
    "epochs": 2, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 0, "threads": 1,
    "precision": "fp32",
}  # fmt: skip
LATENCY = {"batch_sizes": [1], "runtimes": ["eager"], "seconds": 1}
SHARED = {
    "dataset": {"kind": "digits", "image_size": 8, "augment": ["crop"]},
    "training": RECIPE, "export": ["safetensors"], "baseline": False, "latency": LATENCY,
    "labels": {"project": "numbers"},
}  # fmt: skip


def test_students_of_a_project_are_timed_and_held_against_each_other(embedded_service: str, tmp_path: Path) -> None:
    with Client(embedded_service) as client:
        teacher = {"architecture": "resnet14", "train": {"epochs": 2}}
        small = client.submit({**SHARED, "name": "small", "student": {"architecture": "resnet8"}, "teacher": teacher})
        client.wait(small.id, timeout=180, check=True)
        kept = {"architecture": "resnet14", "model": next(m.id for m in client.models() if m.role == "teacher")}
        mid = client.submit({**SHARED, "name": "mid", "student": {"architecture": "resnet14"}, "teacher": kept})
        mid = client.wait(mid.id, timeout=180, check=True)

        question = {
            "name": "three of them",
            "models": [
                {"job": small.id, "role": "teacher", "name": "big"},
                {"job": small.id, "name": "small"},
                {"model": mid.student_model_id, "name": "mid"},
            ],
            "measure": {"runtimes": ["eager", "onnxruntime"], "batch_sizes": [1], "seconds": 1},
            "labels": {"project": "numbers"},
        }
        done = client.benchmarks.run(question)
        assert done.result is not None
        assert [(each.rows[0].model, each.rows[1].model, each.runtime) for each in done.result.comparisons] == [
            ("big", "small", "eager"), ("big", "small", "onnxruntime"),
            ("big", "mid", "eager"), ("big", "mid", "onnxruntime"),
        ]  # fmt: skip
        told = {row.model: row for each in done.result.comparisons for row in each.rows}
        assert told["small"].accuracy == pytest.approx(
            next(m.accuracy for m in client.models() if m.id == client.job(small.id).student_model_id), abs=0.02
        )
        files = {each.name for each in client.benchmarks.artifacts(done.id)}
        assert files >= {
            "benchmark.html",
            "benchmark.json",
            "benchmark_samples.parquet",
            "reproduce.yaml",
            "trainer.log",
        }
        page = client.benchmarks.result(done.id, media_type="text/html").decode()
        assert page.count('aria-label="Distribution of the calls"') == 2
        assert client.benchmarks.result(done.id, media_type="text/csv").decode().count("\n") == 9

        table = client.benchmarks.pareto("project=numbers")
        assert {each.name for each in table.points if each.runtime == "onnxruntime"} == {"small", "mid"}
        assert all(each.source == done.id for each in table.points)  # the newest, of the same weights
        assert any("size" in each.front for each in table.points)

        (tmp_path / "reproduce.yaml").write_bytes(client.benchmarks.artifact(done.id, "reproduce.yaml"))
        with pytest.raises(JobEndedBadly, match="because PyTorch finds no CUDA device here"):
            client.benchmarks.run({"models": [{"job": small.id}], "measure": {**LATENCY, "devices": ["cuda"]}})
        with pytest.raises(ServiceRefused, match="delivered no baseline"):
            client.benchmarks.run({"models": [{"job": small.id, "role": "baseline"}]})

    run = CliRunner(env={"DISTILLERY_SERVER": embedded_service, "DISTILLERY_API_KEY": ""})
    again = run.invoke(app, ["benchmark", "run", str(tmp_path / "reproduce.yaml"), "-r", "eager", "--json"])
    assert again.exit_code == 0, again.output
    listed = run.invoke(app, ["benchmark", "list"])
    assert "three of them" in listed.stdout
    with Client(embedded_service) as client:
        newest = next(client.benchmarks.list(status="succeeded")).id
    compared = run.invoke(app, ["benchmark", "compare", done.id, newest])
    assert compared.exit_code == 0 and "small" in compared.stdout
    shown = run.invoke(app, ["benchmark", "show", newest, "--html", str(tmp_path / "page.html")])
    assert shown.exit_code == 0 and (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    drawn = run.invoke(app, ["benchmark", "pareto", "project=numbers"])
    assert drawn.exit_code == 0 and "mid" in drawn.stdout and " *" in drawn.stdout
