"""The command line against a peer: its surface, its exit codes, and what goes to stdout and what to stderr."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from distillery.cli import app
from distillery.views import (
    Architecture,
    Estimate,
    Interval,
    JobError,
    JobSummary,
    ObjectiveTerm,
    Progress,
    Validation,
)

SURFACE = Path(__file__).with_name("cli_surface.json")
JOB_ID = "job_" + "0" * 26
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = """
dataset: {name: digits}
teacher: {architecture: resnet20, train: {epochs: 2}}
student: {architecture: resnet8}
"""
Run = Callable[..., Any]


@pytest.fixture
def run(peer: Any) -> Run:
    """`run("list", "--json")` against the peer."""

    def invoked(*arguments: str, **options: Any) -> Any:
        return CliRunner(env={"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": ""}).invoke(
            app, arguments, **options
        )

    return invoked


def surface() -> dict[str, list[str]]:
    group: Any = typer.main.get_command(app)
    commands = {}
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        commands |= {name: command} if below is None else {f"{name} {verb}": each for verb, each in below.items()}
    return {
        name: sorted(
            "/".join([*parameter.opts, *parameter.secondary_opts])
            if parameter.opts[0].startswith("-")
            else f"{parameter.name} (argument)"
            for parameter in command.params
        )
        for name, command in commands.items()
    }


def test_the_commands_and_their_options_are_as_agreed() -> None:
    """A change is deliberate: bring cli_surface.json and docs/cli.md to the same state."""
    assert surface() == json.loads(SURFACE.read_text(encoding="utf-8"))


def test_every_command_and_option_stands_in_the_reference() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for command, parameters in surface().items():
        heading = f"## distillery {command.partition(' ')[0]}\n"
        assert heading in text
        section = text.split(heading)[1].split("\n## ")[0]
        assert f"distillery {command}" in heading + section
        missing = [name for name in parameters if name.startswith("-") and name.split("/")[0] not in section]
        assert (command, [name for name in missing if name not in ("--json", "--server/-s")]) == (command, [])


def test_every_command_that_answers_can_answer_in_json() -> None:
    assert [name for name, parameters in surface().items() if "--json" not in parameters] == []


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from distillery.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
print(sorted({"rich", "httpx", "pydantic", "yaml", "torch"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "architectures" in told
    assert told.splitlines()[-1] == "[]"


def test_the_module_is_the_same_command() -> None:
    command = [sys.executable, "-m", "distillery", "version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("distillery ")


def test_submit_prints_the_id_alone_on_stdout(run: Run, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(SPEC)
    peer.script = [peer.says(peer.job(status="queued"), status=201)]
    result = run("submit", str(tmp_path / "job.yaml"), "--set", "training.epochs=3")
    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID}\n")
    assert f"distillery watch {JOB_ID}" in result.stderr
    assert json.loads(peer.seen[0].body)["training"] == {"epochs": 3}


def test_submit_reads_standard_input(run: Run, peer: Any) -> None:
    peer.script = [peer.says(peer.job(status="queued"), status=201)]
    result = run("submit", "-", "--json", input=SPEC)
    assert json.loads(result.stdout)["id"] == JOB_ID
    assert json.loads(peer.seen[0].body)["student"] == {"architecture": "resnet8"}


def test_a_dry_run_submits_nothing(run: Run, peer: Any) -> None:
    estimate = Estimate(
        seconds=Interval(low=60, high=4000), memory_bytes=Interval(low=1e9, high=2e9),
        artifact_bytes=Interval(low=10, high=2_490_000),
    )  # fmt: skip
    validation = Validation(resolved_spec=peer.job().resolved_spec, warnings=("Few epochs.",), estimate=estimate)
    peer.script = [peer.says(validation)]
    result = run("submit", "-", "--dry-run", input=SPEC)
    assert [each.path for each in peer.seen] == ["/v1/jobs:validate"]
    assert "time: 1 min 00 s to 1 h 06 min" in result.stdout
    assert "artifacts: 10 B to 2.49 MB" in result.stdout
    assert "warning: Few epochs." in result.stdout


@pytest.mark.parametrize(
    ("status", "code"), [("succeeded", 0), ("failed", 1), ("crashed", 1), ("cancelled", 5)]
)  # fmt: skip
def test_watch_ends_as_the_job_did(run: Run, peer: Any, status: str, code: int) -> None:
    error = JobError(type="x", title="x", detail="The loss is not finite.", code="DIVERGED", hint="Lower the rate.")
    ended = peer.job(status=status, error=error if code == 1 else None)
    peer.script = [peer.streams(1, 2, end=True), peer.says(ended)]
    result = run("watch", JOB_ID, "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)["status"] == status


def test_a_failed_job_says_why_and_how_to_mend(run: Run, peer: Any) -> None:
    error = JobError(type="x", title="x", detail="The loss is not finite.", code="DIVERGED", hint="Lower the rate.")
    peer.script = [peer.streams(1, end=True), peer.says(peer.job(status="failed", error=error))]
    result = run("watch", JOB_ID)
    assert result.stdout == ""
    assert "ended as failed. The loss is not finite." in result.stderr
    assert "Lower the rate." in result.stderr


def test_no_service_is_exit_code_4_with_the_mend(unused_port: Callable[[], int]) -> None:
    result = CliRunner().invoke(app, ["list", "--server", f"http://127.0.0.1:{unused_port()}"])
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "distillery up" in result.stderr


@pytest.mark.parametrize(
    ("status", "code", "exit_code"), [(404, "NOT_FOUND", 3), (409, "WRONG_STATE", 3), (401, "UNAUTHORIZED", 3)]
)
def test_a_refusal_is_exit_code_3(run: Run, peer: Any, status: int, code: str, exit_code: int) -> None:
    peer.script = [peer.problem(status, code, "It cannot be.")]
    result = run("cancel", JOB_ID)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert "Error: It cannot be." in result.stderr


def test_a_bad_spec_is_exit_code_2_with_a_line_for_each_field(run: Run, peer: Any) -> None:
    found = {
        "pointer": "/student/architecture",
        "code": "UNKNOWN_NAME",
        "detail": "No such network.",
        "hint": "A hint.",
    }
    peer.script = [peer.problem(422, "INVALID_SPEC", "all of it in one line", errors=(found,))]
    result = run("submit", "-", input=SPEC)
    assert result.exit_code == 2
    assert "  /student/architecture: No such network. A hint." in result.stderr
    assert "all of it in one line" not in result.stderr


def test_a_mistyped_setting_never_reaches_the_service(run: Run, peer: Any) -> None:
    result = run("submit", "-", "--set", "trainig.epochs=3", input=SPEC)
    assert result.exit_code == 2
    assert "Did you mean 'training'?" in result.stderr
    assert peer.seen == []


@pytest.mark.parametrize("arguments", [["nonsense"], ["submit"], ["list", "--limit", "0"], ["list", "--limt", "1"]])
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def summary(number: int, **changes: Any) -> JobSummary:
    fields = {"id": f"job_{number}", "name": "[bold]x", "status": "running", "teacher": "a", "student": "b"}
    return JobSummary(**fields | {"created_at": NOW} | changes)


def test_list_shows_a_line_for_each_job(run: Run, peer: Any) -> None:
    progress = Progress(phase="training", step=5, total_steps=20, eta_seconds=90)
    page = {"data": [summary(n, progress=progress).model_dump(mode="json") for n in range(3)]}
    peer.script = [peer.says(page)]
    result = run("list", "--limit", "2", "--status", "running", "--label", "team=vision", "--name", "x")
    assert result.exit_code == 0
    assert "job_1" in result.stdout
    assert "job_2" not in result.stdout
    assert "training 25 %, 1 min 30 s left" in result.stdout
    assert "[bold]x" in result.stdout
    assert peer.seen[0].path == "/v1/jobs?page_size=100&status=running&label=team%3Dvision&q=x"


def test_a_student_that_teaches_itself_is_listed_so(run: Run, peer: Any) -> None:
    peer.script = [peer.says({"data": [summary(1, teacher="").model_dump(mode="json")]})]
    assert "itself" in run("list").stdout


def test_list_in_json_is_a_list(run: Run, peer: Any) -> None:
    peer.script = [peer.says({"data": [summary(0).model_dump(mode="json")]})]
    assert [each["id"] for each in json.loads(run("list", "--json").stdout)] == ["job_0"]


def test_an_empty_list_is_no_error(run: Run, peer: Any) -> None:
    peer.script = [peer.says({"data": []})]
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert run("list", "--json").stdout == "[]\n"


def test_show_tells_what_matters(run: Run, peer: Any) -> None:
    peer.script = [
        peer.says(peer.job()),
        peer.says({"data": [peer.artifact(b"x" * 2_500_000).model_dump(mode="json")]}),
    ]
    result = run("show", JOB_ID)
    for text in (JOB_ID, "running", "resnet20", "0.9 soft_targets", "student.safetensors (2.5 MB)"):
        assert text in result.stdout


def test_architectures_are_filtered_by_text(run: Run, peer: Any) -> None:
    rows = [
        Architecture(
            name=name, family="f", parameters=12_976_266, macs=615_917_568, input=(3, 32, 32), stages=()
        ).model_dump(mode="json")
        for name in ("seed_teacher", "resnet20")
    ]
    peer.script = [peer.says({"data": rows})]
    shown = run("architectures", "seed").stdout
    assert "12,976,266" in shown
    assert "616 M" in shown
    assert "resnet20" not in shown
    assert [each["name"] for each in json.loads(run("architectures", "SEED", "--json").stdout)] == ["seed_teacher"]


@pytest.mark.parametrize(
    ("command", "path", "heading"),
    [("objectives", "/v1/objectives", "term"), ("strategies", "/v1/strategies", "strategy")],
)
def test_a_catalogue_is_shown_as_a_table_or_whole(run: Run, peer: Any, command: str, path: str, heading: str) -> None:
    entry = ObjectiveTerm(
        name="kind", summary="s", paper="Somebody, 2015", when_to_use="Always.", defaults={"weight": 1}, json_schema={}
    )
    peer.script = [peer.says({"data": [entry.model_dump(mode="json")]})]
    shown = run(command)
    assert (shown.exit_code, peer.seen[0].path) == (0, path)
    assert shown.stdout.split()[0] == heading
    for text in ("kind", "Always.", "Somebody, 2015"):
        assert text in shown.stdout
    assert json.loads(run(command, "--json").stdout)[0]["defaults"] == {"weight": 1}


def test_download_says_where_the_file_lies(run: Run, peer: Any, tmp_path: Path) -> None:
    content = b"weights" * 100
    listing = peer.says({"data": [peer.artifact(content).model_dump(mode="json")]})
    peer.script = [listing, listing, peer.says(content)]
    result = run("download", JOB_ID, "--to", str(tmp_path / "new"))
    assert result.stdout.strip() == str(tmp_path / "new" / "student.safetensors")
    assert (tmp_path / "new" / "student.safetensors").read_bytes() == content
    peer.script = [listing]
    (told,) = json.loads(run("download", JOB_ID, "--to", str(tmp_path / "new"), "--all", "--json").stdout)
    assert told["sha256"] == peer.artifact(content).sha256


def test_the_key_comes_from_the_environment_and_is_never_shown(peer: Any) -> None:
    peer.script = [peer.problem(401, "UNAUTHORIZED", "A wrong key.")]
    environment = {"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": "very-secret"}
    result = CliRunner(env=environment).invoke(app, ["list"])
    assert peer.seen[0].headers["authorization"] == "Bearer very-secret"
    assert "very-secret" not in result.output
