"""What the command line does to a job that is there, against a peer: what is sent, said, and asked first."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distillery.cli import app
from distillery.report import LatencyReport, ServerResult
from distillery.spec import LatencySpec
from distillery.views import Adjustments, Benchmark

JOB_ID = "job_" + "0" * 26
NEW_ID = "job_" + "1" * 26
Run = Callable[..., Any]


@pytest.fixture
def run(peer: Any) -> Run:
    """`run("pause", JOB_ID)` against the peer."""

    def invoked(*arguments: str, **options: Any) -> Any:
        environment = {"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": ""}
        return CliRunner(env=environment).invoke(app, arguments, **options)

    return invoked


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("cancel", "cancelling", f"Job {JOB_ID} is cancelling."),
        ("pause", "pausing", f"Job {JOB_ID} is pausing. Let it go on with: distillery resume {JOB_ID}"),
        ("resume", "queued", f"Job {JOB_ID} is queued. Follow it with: distillery watch {JOB_ID}"),
    ],
)
def test_a_verb_is_one_request_and_one_line(run: Run, peer: Any, command: str, status: str, told: str) -> None:
    peer.script = [peer.says(peer.job(status=status))]
    result = run(command, JOB_ID)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{told}\n")
    assert [(each.method, each.path) for each in peer.seen] == [("POST", f"/v1/jobs/{JOB_ID}:{command}")]
    assert json.loads(run(command, JOB_ID, "--json").stdout)["status"] == status


def test_a_retry_prints_the_new_id_alone_on_stdout(run: Run, peer: Any) -> None:
    peer.script = [peer.says(peer.job(id=NEW_ID, status="queued", retry_of=JOB_ID), status=201)]
    result = run("retry", JOB_ID, "--max-seconds", "90")
    assert (result.exit_code, result.stdout) == (0, f"{NEW_ID}\n")
    assert f"distillery watch {NEW_ID}" in result.stderr
    assert json.loads(peer.seen[0].body) == {"max_seconds": 90}
    assert json.loads(run("retry", JOB_ID, "--json").stdout)["retry_of"] == JOB_ID
    assert run("retry", JOB_ID, "--max-seconds", "0").exit_code == 2


def test_latency_sends_the_scenarios_that_are_asked_for_and_shows_their_tables(run: Run, peer: Any) -> None:
    server = ServerResult(
        model="student", runtime="eager", device="cpu", threads=1, input="end_to_end", objective_seconds=0.02,
        service_seconds=0.001, highest_rate=512.0, lowest_missed=530.0, rates=(), notes=("Mind this.",),
    )  # fmt: skip
    result = LatencyReport(
        protocol="p", comparisons=(), servers=(server,), environment={}, weights_sha256={}, repeat_with="again"
    )
    done = Benchmark(
        id="bmk_1", job_id=JOB_ID, status="succeeded", spec=LatencySpec(), created_at=datetime.now(UTC), result=result
    )
    peer.script = [peer.says(done, status=202)]
    asked = ("--scenario", "server", "--scenario", "batch_sweep", "--input", "end_to_end", "--p99", "0.02")
    told = run("latency", JOB_ID, *asked)
    assert told.exit_code == 0, told.stderr
    assert json.loads(peer.seen[0].body) == {
        "scenarios": ["server", "batch_sweep"], "inputs": ["end_to_end"], "p99_seconds": 0.02,
    }  # fmt: skip
    assert "512.0/s" in told.stdout
    assert "speed-up" not in told.stdout
    assert "Mind this." in told.stderr


def sent_by_clone(run: Run, peer: Any, *arguments: str, **options: Any) -> Any:
    peer.seen.clear()
    new = peer.says(peer.job(id=NEW_ID, cloned_from=JOB_ID), status=201)
    peer.script = [peer.says(peer.job()), new] if arguments else [new]
    result = run("clone", JOB_ID, *arguments, **options)
    assert (result.exit_code, result.stdout) == (0, f"{NEW_ID}\n"), result.stderr
    assert f"distillery watch {NEW_ID}" in result.stderr
    assert (peer.seen[-1].method, peer.seen[-1].path) == ("POST", f"/v1/jobs/{JOB_ID}:clone")
    return json.loads(peer.seen[-1].body)


def test_a_clone_sends_what_is_to_change_and_nothing_else(run: Run, peer: Any, tmp_path: Path) -> None:
    assert sent_by_clone(run, peer) == {}
    assert len(peer.seen) == 1
    settings = ("--set", "training.epochs=3", "--set", "teacher.train.epochs=5", "--set", "training.optimizer.lr=5e-4")
    wanted = {"training": {"epochs": 3, "optimizer": {"lr": 5e-4}}, "teacher": {"train": {"epochs": 5}}}
    assert sent_by_clone(run, peer, *settings) == wanted
    (tmp_path / "changes.yaml").write_text("training: {epochs: 9, batch_size: 64}\nlabels: null\n")
    from_file = ("--file", str(tmp_path / "changes.yaml"), "--set", "training.epochs=4")
    assert sent_by_clone(run, peer, *from_file) == {"training": {"epochs": 4, "batch_size": 64}, "labels": None}
    assert sent_by_clone(run, peer, "-f", "-", input='{"name": "again"}') == {"name": "again"}


def test_a_place_in_a_list_takes_the_whole_list_along(run: Run, peer: Any, tmp_path: Path) -> None:
    assert peer.job().spec.export == ("safetensors", "onnx")
    assert sent_by_clone(run, peer, "--set", "export.0=onnx") == {"export": ["onnx", "onnx"]}
    (tmp_path / "changes.yaml").write_text("latency: {batch_sizes: [1, 2, 3]}\n")
    inside = ("--file", str(tmp_path / "changes.yaml"), "--set", "latency.batch_sizes.1=8")
    assert sent_by_clone(run, peer, *inside) == {"latency": {"batch_sizes": [1, 8, 3]}}


def test_a_setting_of_another_strategy_is_known(run: Run, peer: Any) -> None:
    settings = ("--set", "method.strategy=self_distillation", "--set", "method.hard_weight=0.5")
    assert sent_by_clone(run, peer, *settings) == {"method": {"strategy": "self_distillation", "hard_weight": 0.5}}


def test_null_takes_away_what_the_kind_that_is_chosen_does_not_have(run: Run, peer: Any) -> None:
    assert peer.job().spec.training.optimizer.name == "sgd"
    settings = ("--set", "training.optimizer.name=adamw", "--set", "training.optimizer.momentum=null")
    gone = {"training": {"optimizer": {"name": "adamw", "momentum": None}}}
    assert sent_by_clone(run, peer, *settings) == gone
    assert sent_by_clone(run, peer, "--set", "latency=null", "--set", "teacher.train=null") == {
        "latency": None, "teacher": {"train": None},
    }  # fmt: skip
    result = run("clone", JOB_ID, "--set", "trainig.epochs=null")
    assert (result.exit_code, "no 'trainig.epochs' that could have its default" in result.stderr) == (2, True)


def test_a_mistyped_change_never_reaches_the_service(run: Run, peer: Any, tmp_path: Path) -> None:
    peer.script = [peer.says(peer.job())]
    result = run("clone", JOB_ID, "--set", "trainig.epochs=3")
    assert result.exit_code == 2
    assert "Did you mean 'training'?" in result.stderr
    (tmp_path / "changes.yaml").write_text("- training\n")
    result = run("clone", JOB_ID, "--file", str(tmp_path / "changes.yaml"))
    assert "holds a list instead of changes" in result.stderr
    assert {each.method for each in peer.seen} == {"GET"}


def test_an_edit_says_what_the_job_has_now(run: Run, peer: Any) -> None:
    peer.script = [peer.says(peer.job(name="new", labels={"a": "b=c", "team": "vision"}))]
    options = ("--name", "new", "--label", "a=b=c", "--remove-label", "old", "--priority", "0")
    result = run("edit", JOB_ID, *options)
    assert result.stderr == f"Job {JOB_ID} has: name 'new'; labels a=b=c, team=vision; priority 0.\n"
    assert json.loads(peer.seen[0].body) == {"name": "new", "labels": {"old": None, "a": "b=c"}, "priority": 0}
    peer.script = [peer.says(peer.job())]
    assert run("edit", JOB_ID, "--remove-label", "a").stderr == f"Job {JOB_ID} has: labels none.\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "Give --name, --label, --remove-label or --priority."),
        (("--label", "team"), "'--label team' is not of the form key=value."),
        (("--label", "=x"), "--label team=vision"),
        (("--priority", "101"), "--priority"),
    ],
)
def test_an_edit_of_nothing_or_nonsense_never_reaches_the_service(
    run: Run, peer: Any, options: tuple[str, ...], told: str
) -> None:
    result = run("edit", JOB_ID, *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert peer.seen == []


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [("y\n", 0, "is deleted"), ("n\n", 1, "Nothing was done."), ("\n", 1, "Nothing was done."), ("", 2, "Give --yes")],
)
def test_deleting_is_asked_for_first(run: Run, peer: Any, answer: str, code: int, told: str) -> None:
    peer.script = [peer.says(peer.job(status="succeeded")), peer.says(b"", status=204)]
    result = run("delete", JOB_ID, input=answer)
    assert (result.exit_code, result.stdout) == (code, "")
    assert f"Delete 'a study' ({JOB_ID}, succeeded)" in result.stderr
    assert told in result.stderr
    assert [each.method for each in peer.seen] == (["GET", "DELETE"] if code == 0 else ["GET"])


def test_deleting_is_not_asked_for_when_the_answer_is_given(run: Run, peer: Any) -> None:
    peer.script = [peer.says(b"", status=204)]
    assert json.loads(run("delete", JOB_ID, "--yes", "--json").stdout) == {"id": JOB_ID, "deleted": True}
    peer.script = [peer.problem(409, "WRONG_STATE", f"{JOB_ID} is running; only what has ended can be deleted.")]
    result = run("delete", JOB_ID, "-y")
    assert (result.exit_code, result.stdout) == (3, "")
    assert [each.method for each in peer.seen] == ["DELETE", "DELETE"]


def test_show_tells_where_a_job_comes_from_and_what_runs_differently(run: Run, peer: Any) -> None:
    adjusted = Adjustments(micro_batches=4, rate_halved=("teacher", "training"))
    job = peer.job(
        status="paused", status_reason="Paused.", retry_of="job_a", cloned_from="job_b", adjustments=adjusted
    )
    peer.script = [peer.says(job), peer.says({"data": []})]
    shown = [" ".join(line.split()) for line in run("show", JOB_ID).stdout.splitlines()]
    parts = "each batch in 4 parts, since memory ran out"
    halved = "half the learning rate in teacher and training, since the loss diverged"
    for line in ("status paused Paused.", "retry of job_a", "cloned from job_b", f"adjusted {parts}; {halved}"):
        assert line in shown
    peer.script = [peer.says(peer.job()), peer.says({"data": []})]
    peer.seen.clear()
    assert not {"retry", "cloned", "adjusted"} & {
        line.split(" ")[0] for line in run("show", JOB_ID).stdout.splitlines()
    }
