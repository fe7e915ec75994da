"""The tutorials' commands, run as they stand: each in a folder of its own, against one service."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import running, wait_until_ready

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"<!-- (?P<mark>[^>]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`distillery up` in a home of its own; gives the URL."""
    from tests.conftest import free_port

    home, port = tmp_path_factory.mktemp("service"), free_port()
    command = [sys.executable, "-m", "distillery", "up", "--home", str(home / "home"), "--port", str(port)]
    with running(command, log=home / "up.log", environment={}) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        yield url


@pytest.fixture
def follow(service: str, tmp_path: Path) -> Callable[..., str]:
    """Runs the marked blocks of a page in their order, in one shell; what it printed."""

    def run(page: str, **environment: str) -> str:
        script = []
        for mark, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if mark.startswith("save as "):
                (tmp_path / mark.removeprefix("save as ")).write_text(text, encoding="utf-8")
            else:
                script.append(text)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = os.environ | {"PATH": path, "DISTILLERY_SERVER": service} | environment
        command = ["bash", "-euo", "pipefail", "-c", "\n".join(script)]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=tmp_path, env=given, timeout=500, **streams)
        assert done.returncode == 0, done.stdout[-4000:]
        return str(done.stdout)

    return run


def part_of(archive: Path, to: Path, *, every: int) -> None:
    """Every so-manieth image of each class: on two cores the whole would take half an hour."""
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(to / archive.name, "w") as part:
        for name in sorted(name for name in whole.namelist() if name.endswith(".webp"))[::every]:
            part.writestr(name, whole.read(name))


@pytest.mark.timeout(600)
def test_bring_your_own_teacher(follow: Callable[..., str], data_root: Any, tmp_path: Path) -> None:
    """On a part of CIFAR-10; the figures of the whole are held in tests/worker/test_inspect_model.py."""
    less = tmp_path / "less"
    less.mkdir()
    part_of(data_root("cifar10") / "cifar10_train.zip", less, every=20)
    part_of(data_root("cifar10") / "cifar10_test.zip", less, every=20)
    told = follow("bring-your-own-teacher.md", CIFAR10=str(less), WEIGHTS=str(data_root("cifar10-resnet-weights")))
    (accuracy,) = set(re.findall(r"([\d.]+)% right on the 500 test images", told))
    assert 90 < float(accuracy) < 97
    assert "The prefix 'module.' of all tensor names was dropped." in told
    assert "10 classes (airplane" in told
    assert "2,250 for train, 250 for validation, 500 for test" in told
    assert (tmp_path / "cifar10.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "student.safetensors").stat().st_size > 1_000_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["teacher-from-scikit-learn.md", "teacher-as-a-table.md"])
def test_a_teacher_of_another_kind(follow: Callable[..., str], page: str) -> None:
    told = follow(page)
    assert "test images of digits" in told
    assert "student" in told
