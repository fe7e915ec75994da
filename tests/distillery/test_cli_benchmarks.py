"""`distillery benchmark …` against a peer: what is asked of the service, and what is shown."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distillery.benchmarks import compared
from distillery.cli import app
from distillery.pareto import Known, Source, Wanted, pareto
from distillery.report import LatencyFailure
from distillery.spec import LatencySpec
from distillery.views import Benchmark, BenchmarkSummary, JobError, Page, Progress
from tests.latency_reports import NOISE, against, comparison, report, row

JOB, MODEL, ID = "job_" + "0" * 26, "mdl_" + "0" * 26, "bmk_" + "0" * 26
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Run = Callable[..., Any]


@pytest.fixture
def run(peer: Any) -> Run:
    def invoked(*arguments: str, **options: Any) -> Any:
        runner = CliRunner(env={"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": ""})
        return runner.invoke(app, ["benchmark", *arguments], **options)

    return invoked


def view(status: Any = "succeeded", **changes: Any) -> Benchmark:
    told: dict[str, Any] = {
        "id": ID, "job_id": None, "name": "two", "status": status, "spec": LatencySpec(), "created_at": NOW,
    }  # fmt: skip
    return Benchmark(**told | changes)


RESULT = report(
    [comparison(row("big", 0.002), row("small", 0.001, degraded=True), noise=(NOISE,))]
).model_copy(
    update={
        "failures": (
            LatencyFailure(runtime="eager", device="cpu", batch_size=64, detail="It did not fit.", model="other"),
        )
    }
)  # fmt: skip


def test_a_benchmark_is_asked_for_by_options(run: Run, peer: Any, tmp_path: Path) -> None:
    peer.script = [
        peer.says(view("queued"), status=202), peer.says(view("running")), peer.says(view(result=RESULT)),
        peer.says("<p>", kind="text/html"),
    ]  # fmt: skip
    page = tmp_path / "page.html"
    result = run(
        "run", "-m", f"big={JOB}/teacher", "-m", JOB, "-m", f"o=k={MODEL}", "-r", "eager", "-r", "openvino", "-b", "1",
        "-b", "8", "-d", "cpu", "--threads", "2", "--name", "two", "--reference", "big", "-l", "project=flowers",
        "--dataset", "digits", "--set", "measure.seconds=5", "--html", str(page),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(peer.seen[0].body) == {
        "models": [
            {"job": JOB, "role": "teacher", "name": "big"}, {"job": JOB}, {"model": MODEL, "name": "o=k"},
        ],
        "reference": "big", "name": "two", "labels": {"project": "flowers"}, "dataset": {"name": "digits"},
        "measure": {
            "runtimes": ["eager", "openvino"], "batch_sizes": [1, 8], "devices": ["cpu"], "threads": 2, "seconds": 5,
        },
    }  # fmt: skip
    assert "Idempotency-Key" in {name.title() for name in peer.seen[0].headers}
    for told in ("big", "small", "2.00x", "1.90 to 2.10", "faster noisy", "(degraded)", "broke off", "2.000 ms"):
        assert told in result.stdout
    assert NOISE.detail in result.stderr and "It did not fit." in result.stderr
    assert page.read_text() == "<p>"


def test_options_go_over_the_file(run: Run, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        f"models: [{{job: {JOB}}}]\nlabels: {{a: b}}\nmeasure: {{threads: 1, batch_sizes: [1]}}\n"
    )
    peer.script = [peer.says(view("queued"), status=202)]
    result = run("run", str(tmp_path / "b.yaml"), "-b", "4", "-l", "c=d", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, f"{ID}\n")
    body = json.loads(peer.seen[0].body)
    assert body == {
        "models": [{"job": JOB}], "labels": {"a": "b", "c": "d"}, "measure": {"threads": 1, "batch_sizes": [4]},
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [("-m", "student"), ("-m", f"{MODEL}/teacher"), ("-m", JOB, "-l", "flowers")])
def test_what_names_nothing_is_refused_here(run: Run, peer: Any, arguments: tuple[str, ...]) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 2 and "Write " in result.stderr
    assert peer.seen == []


def test_a_benchmark_that_fails_says_why(run: Run, peer: Any) -> None:
    error = JobError(type="x", title="x", detail="Nothing can be measured.", code="X", hint="Ask for less.")
    peer.script = [peer.says(view("failed", error=error), status=202)]
    result = run("run", "-m", JOB)
    assert result.exit_code == 1
    assert "Nothing can be measured." in result.stderr and "Ask for less." in result.stderr


def test_how_far_it_is_is_shown(run: Run, peer: Any) -> None:
    at = Progress(phase="measuring", step=1, total_steps=3)
    peer.script = [peer.says(view("running", progress=at))]
    result = run("show", ID)
    assert (result.stdout, "running (1 of 3 pairs)" in result.stderr) == (f"{ID}\n", True)


def test_a_result_is_written_in_every_form(run: Run, peer: Any, tmp_path: Path) -> None:
    peer.script = [peer.says(kind, kind=kind) for kind in ("text/html", "text/csv")] + [peer.says("samples")]
    paths = [str(tmp_path / name) for name in ("a.html", "b.csv", "c.csv")]
    result = run("show", ID, "--html", paths[0], "--csv", paths[1], "--samples", paths[2])
    assert result.stdout.splitlines() == paths
    assert [Path(path).read_text() for path in paths] == ["text/html", "text/csv", "samples"]
    assert [each.path for each in peer.seen] == [
        f"/v1/benchmarks/{ID}/result", f"/v1/benchmarks/{ID}/result",
        f"/v1/benchmarks/{ID}/artifacts/benchmark_samples.parquet",
    ]  # fmt: skip


def test_benchmarks_are_listed(run: Run, peer: Any) -> None:
    one = BenchmarkSummary(
        id=ID, job_id=None, name="[two]", status="succeeded", models=("big", "small"), fingerprint="f" * 64,
        created_at=NOW,
    )  # fmt: skip
    peer.script = [peer.says(Page[BenchmarkSummary](data=(one,)))]
    result = run("list", "--label", "project=flowers")
    assert "label=project%3Dflowers" in peer.seen[0].path
    assert "[two]" in result.stdout and "ffffffffffff" in result.stdout and "big, small" in result.stdout


def test_benchmarks_are_compared(run: Run, peer: Any) -> None:
    slower = against("big", {"big": 0.002, "small": 0.0015}, fingerprint="0" * 64, cpu="Another")
    found = compared({"bmk_1": against("big", {"big": 0.002, "small": 0.001}), "bmk_2": slower}, force=True)
    peer.script = [peer.says(found)]
    result = run("compare", "bmk_1", "bmk_2", "--force")
    assert "ids=bmk_1%2Cbmk_2&force=true" in peer.seen[0].path
    assert "1.500 ms (+50.0 %)" in result.stdout
    assert "cpu: A fast one | Another" in " ".join(result.stderr.split())


def test_different_environments_are_refused_by_the_service(run: Run, peer: Any) -> None:
    peer.script = [peer.problem(409, "ENVIRONMENTS_DIFFER", "What differs: cpu.")]
    result = run("compare", "bmk_1", "bmk_2")
    assert result.exit_code == 3 and "What differs: cpu." in result.stderr


def test_a_project_is_shown_as_a_table(run: Run, peer: Any) -> None:
    students = {name: Known(name, JOB, MODEL, "resnet8", accuracy) for name, accuracy in (("a", 0.9), ("b", 0.8))}
    told = against("t", {"t": 0.004, "a": 0.001, "b": 0.002})
    peer.script = [peer.says(pareto([Source("bmk_1", told, students)], wanted=Wanted("project=flowers")))]
    result = run("pareto", "project=flowers", "--against", "p95", "--against", "size", "-r", "eager")
    asked = peer.seen[0].path
    assert "label=project%3Dflowers&against=p95&against=size&batch_size=1&runtime=eager" in asked
    first, second = (line for line in result.stdout.splitlines() if "resnet8" in line)
    assert first.split()[0] == "a" and "2.000 ms *" in first and "1.0 kB *" in first and "90.00 %" in first
    assert second.split()[0] == "b" and "4.000 ms  " in second


def test_a_project_without_figures_says_so(run: Run, peer: Any) -> None:
    peer.script = [peer.says(pareto([], wanted=Wanted("project=none")))]
    result = run("pareto", "project=none")
    assert result.exit_code == 0 and "Nothing was measured" in result.stderr


def test_a_benchmark_is_cancelled_and_removed(run: Run, peer: Any) -> None:
    peer.script = [peer.says(view("cancelled")), peer.says(b"", status=204)]
    assert "is cancelled" in run("cancel", ID).stderr
    assert json.loads(run("remove", ID, "--json").stdout) == {"id": ID}
    assert [(each.method, each.path) for each in peer.seen] == [
        ("POST", f"/v1/benchmarks/{ID}:cancel"), ("DELETE", f"/v1/benchmarks/{ID}"),
    ]  # fmt: skip
