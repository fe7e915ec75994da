"""The command line, and the asynchronous client, against the real service with a real job."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distillery.client import AsyncClient, Client
from distillery.views import PHASES, TERMINAL

WAIT_SECONDS = 240
PASSED = [phase for phase in PHASES if phase != "assisting"]
"""The job has no assistants."""
JOB = """
name: journey of the command line
dataset: {name: digits, image_size: 8, limit: 200}
teacher: {architecture: resnet14, train: {epochs: 1}}
student: {architecture: resnet8}
training: {epochs: 2, batch_size: 64, optimizer: {name: adamw, lr: 3e-3}, seed: 1, threads: 1, precision: fp32}
export: [safetensors]
latency: {runtimes: [eager], seconds: 1}
labels: {team: vision}
"""
A_WHILE = ("--set", "training.epochs=60", "--set", "baseline=false", "--set", "latency=null")
"""Long enough to be met while it trains."""
LONG = ("--set", "training.epochs=10000", "--set", "teacher.train.epochs=10000", "--set", "latency=null")


@dataclass(frozen=True)
class CommandLine:
    """`distillery` as a user runs it, in a folder of its own."""

    url: str
    folder: Path
    parent: int

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run a command and do not wait for it."""
        environment = os.environ | {"DISTILLERY_SERVER": self.url}
        command = [sys.executable, "-m", "distillery", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def __call__(self, *arguments: str, code: int = 0, text: str = "") -> tuple[str, str]:
        """Run a command to its end; gives stdout and stderr."""
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate(text, timeout=WAIT_SECONDS)
        assert process.returncode == code, stdout + stderr
        return stdout, stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    folder = tmp_path_factory.mktemp("journey")
    (folder / "job.yaml").write_text(JOB)
    command = [sys.executable, "-m", "distillery", "up", "--home", str(folder / "home"), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield CommandLine(json.loads(process.stdout.readline())["url"], folder, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0


@pytest.fixture(scope="module")
def watched(run: CommandLine) -> tuple[str, str]:
    """What `submit --watch` of a good job said on stdout and stderr."""
    return run("submit", "job.yaml", "--watch")


@pytest.fixture
def job_id(run: CommandLine, watched: tuple[str, str]) -> str:
    """The good job, which has succeeded."""
    (job,) = json.loads(run("list", "--status", "succeeded", "--json")[0])
    return str(job["id"])


def test_submit_and_watch_ends_with_the_three_networks_side_by_side(watched: tuple[str, str]) -> None:
    stdout, stderr = watched
    assert [line for line in stderr.splitlines() if line.endswith(" ...")] == [f"{phase} ..." for phase in PASSED]
    for text in (
        "teacher",
        "student alone",
        "test accuracy",
        "multiply-adds",
        "file size",
        "p50 latency, eager, batch 1",
    ):
        assert text in stdout
    assert "speed-up" in stdout
    assert "of 359 test images right" in stdout


def test_every_artifact_comes_home_verified(run: CommandLine, job_id: str) -> None:
    stdout, _ = run("download", job_id, "--all", "--to", "files", "--json")
    for each in json.loads(stdout):
        assert hashlib.sha256((run.folder / each["path"]).read_bytes()).hexdigest() == each["sha256"]
    assert {"student.safetensors", "report.html"} <= {path.name for path in (run.folder / "files").iterdir()}


def test_the_report_is_shown_as_table_as_json_and_as_page(run: CommandLine, job_id: str) -> None:
    assert "student alone" in run("report", job_id)[0]
    assert {each["role"] for each in json.loads(run("report", job_id, "--json")[0])["quality"]} == {
        "teacher", "student", "baseline",
    }  # fmt: skip
    run("report", job_id, "--html", "page.html")
    assert "<html" in (run.folder / "page.html").read_text(encoding="utf-8")


def test_latency_is_measured_again_on_a_worker(run: CommandLine, job_id: str) -> None:
    stdout, _ = run("latency", job_id, "--batch-size", "2", "--runtime", "eager", "--json")
    (comparison,) = json.loads(stdout)["result"]["comparisons"]
    assert comparison["batch_size"] == 2
    assert "eager, batch 2" in run("latency", job_id, "--last")[0]


def test_show_and_list_and_architectures(run: CommandLine, job_id: str) -> None:
    assert "student.safetensors" in run("show", job_id)[0]
    assert job_id in run("list", "--label", "team=vision")[0]
    assert job_id not in run("list", "--label", "team=audio")[0]
    assert "12,976,266" in run("architectures", "seed_teacher")[0]


def test_the_asynchronous_client_reads_the_same(run: CommandLine, job_id: str, tmp_path: Path) -> None:
    async def read() -> tuple[list[int], Path]:
        async with AsyncClient(run.url) as client:
            seqs = [event.seq async for event in client.stream(job_id)]
            return seqs, await client.download(job_id, to=tmp_path)

    seqs, path = asyncio.run(read())
    assert seqs == list(range(1, len(seqs) + 1))
    assert path.read_bytes() == (run.folder / "home").rglob("student.safetensors").__next__().read_bytes()


def test_a_dry_run_estimates_and_submits_nothing(run: CommandLine) -> None:
    before = run("list", "--json")[0]
    assert "memory:" in run("submit", "-", "--dry-run", text=JOB)[0]
    assert run("list", "--json")[0] == before


def test_a_bad_spec_is_refused_field_by_field(run: CommandLine) -> None:
    _, stderr = run(
        "submit", "job.yaml", "--set", "training.epochs=-1", "--set", "student.architecture=resnet9", code=2
    )
    assert "/training/epochs: " in stderr


def test_a_job_on_missing_data_fails_with_the_place(run: CommandLine) -> None:
    missing = "dataset={kind: idx, path: no-such-folder}"
    _, stderr = run("submit", "job.yaml", "--set", missing, "--watch", code=1)
    assert "no-such-folder" in stderr.splitlines()[-2] + stderr.splitlines()[-1]


def test_an_interrupted_watch_leaves_the_job_running_and_cancel_ends_it_for_a_retry(run: CommandLine) -> None:
    job_id = run("submit", "job.yaml", *LONG)[0].strip()
    with run.start("watch", job_id) as watching:
        assert watching.stderr is not None
        for line in watching.stderr:
            if line.startswith("teaching"):
                break
        watching.send_signal(signal.SIGINT)
        assert "Only the watching has ended." in watching.stderr.read()
    assert watching.returncode == 130
    assert json.loads(run("show", job_id, "--json")[0])["status"] == "running"
    run("cancel", job_id)
    assert "ended as cancelled" in run("watch", job_id, code=5)[1]
    goes_on_as_a_retry(run, job_id)


def goes_on_as_a_retry(run: CommandLine, job_id: str) -> None:
    new = run("retry", job_id)[0].strip()
    assert "is needed by" in run("delete", job_id, "--yes", code=3)[1]
    run("edit", new, "--name", "second try")
    with Client(run.url) as client:
        first = next(event for event in client.stream(new) if event.type == "started")
        assert first.data["step"] > 0
        run("cancel", new)
        client.wait(new)
    assert job_id in run("show", new)[0]
    run("delete", job_id, code=1, text="n\n")
    run("delete", job_id, text="y\n")
    run("show", job_id, code=3)
    assert "second try" in run("show", new)[0]


def until_it_trains(client: Client, job_id: str) -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while (job := client.job(job_id)).phase != "training" or not job.progress or not job.progress.step:
        assert job.status not in TERMINAL, job.status_reason
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_job_is_paused_while_it_is_watched_and_resumed_to_its_end(run: CommandLine) -> None:
    job_id = run("submit", "job.yaml", *A_WHILE)[0].strip()
    with run.start("watch", job_id) as watching, Client(run.url) as client:
        assert watching.stderr is not None
        until_it_trains(client, job_id)
        assert f"{job_id} is pausing. " in run("pause", job_id)[1]
        told = next(line for line in watching.stderr if "Waiting." in line)
        assert f"distillery resume {job_id}" in told
        assert "paused" in run("list", "--status", "paused")[0]
        assert "is queued" in run("resume", job_id)[1]
        rest = watching.stderr.read()
    assert watching.returncode == 0, rest
    assert "Attempt 2 started" in rest
    with Client(run.url) as client:
        steps = [event.data["step"] for event in client.stream(job_id) if event.type in ("paused", "started")]
    assert steps[0] == 0
    assert steps[1] == steps[2] > 0, "it goes on from where it was paused"


def test_a_watch_outlives_a_kill_of_the_api_and_misses_nothing(run: CommandLine) -> None:
    job_id = run("submit", "job.yaml", "--set", "latency=null")[0].strip()
    with run.start("watch", job_id) as watching:
        assert watching.stderr is not None
        lines = []
        for line in watching.stderr:
            lines.append(line.strip())
            if line.startswith("preparing"):
                kill_api(run.parent)
    assert watching.returncode == 0, lines
    assert [line for line in lines if line.endswith(" ...")] == [f"{phase} ..." for phase in PASSED[:-1]]
    with Client(run.url) as client:
        assert client.job(job_id).status in TERMINAL
        assert client.job(job_id).attempt == 1


def kill_api(parent: int) -> None:
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "app.serve" in child.cmdline():
                child.kill()
