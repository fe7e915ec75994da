"""The README's commands, run as they stand: its service, its job file, its shell blocks in their order."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (?P<mark>[^>]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)
WAIT_FOR_THE_SERVICE = 'until curl -sf "$DISTILLERY_SERVER/readyz" > ready.json; do sleep 0.2; done'


def blocks() -> list[tuple[str, str]]:
    found = BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    return [(mark, text) for mark, text in found]


def test_the_marked_blocks_are_found() -> None:
    assert [mark for mark, _ in blocks()] == ["run in the background", "save as job.yaml", "run", "run", "run", "run"]


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works(tmp_path: Path, unused_port: Callable[[], int]) -> None:
    port = unused_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "DISTILLERY_HOME": str(tmp_path / "home"),
        "DISTILLERY_SERVER": f"http://127.0.0.1:{port}",
    }
    service: subprocess.Popen[bytes] | None = None
    try:
        for mark, text in blocks():
            text = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            if mark == "run in the background":
                with (tmp_path / "up.log").open("wb") as log:
                    command = ["bash", "-c", f"exec {text.strip()} --port {port}"]
                    service = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
                run(WAIT_FOR_THE_SERVICE, folder=tmp_path, environment=environment, seconds=90)
            elif mark.startswith("save as "):
                (tmp_path / mark.removeprefix("save as ")).write_text(text, encoding="utf-8")
            else:
                run(text, folder=tmp_path, environment=environment, seconds=400)
    finally:
        if service is not None:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
    for name in ("student.safetensors", "student.onnx", "distilled/student.safetensors", "distilled/report.html"):
        assert (tmp_path / name).stat().st_size > 10_000, name


def run(script: str, *, folder: Path, environment: dict[str, str], seconds: float) -> None:
    """Run shell lines; the first that fails, fails the test with what it printed."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
