"""`distillery up` with the real service: one command, one owner, no orphans, and clear words when it cannot be."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distillery import up
from distillery.client import Client
from distillery.errors import InvalidRequest, MissingDependency, Unavailable
from distillery.up import Setup

DEADLINE_SECONDS = 120.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Running:
    """A running `up`, its URL and its home."""

    process: subprocess.Popen[str]
    url: str
    home: Path

    @property
    def children(self) -> dict[str, psutil.Process]:
        """API, worker and inference worker."""
        names = {"app.serve": "api", "worker.embedded": "worker", "worker.inference": "inference"}
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, StopIteration):  # dead, or not yet what it will be
                found[next(names[word] for word in child.cmdline() if word in names)] = child
        return found


def start(home: Path, *, cwd: Path, **environment: str) -> Running:
    command = [sys.executable, "-m", "distillery", "up", "--home", str(home), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = process.stdout.readline()
    if not told:
        assert process.stderr is not None
        pytest.fail(process.stderr.read())
    assert json.loads(told) | {"url": ""} == {"url": "", "home": str(home), "pid": process.pid}
    return Running(process, json.loads(told)["url"], home)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests of this module, started from a folder with packages of unlucky names."""
    place = tmp_path_factory.mktemp("up")
    for name in ("app", "worker", "store", "engine"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("raise SystemExit('a package of the folder was imported')")
    # `-m distillery` itself looks into the current folder first, so nothing there may be called distillery.
    held = start(place / "home", cwd=place)
    yield held
    held.process.send_signal(signal.SIGINT)
    held.process.communicate(timeout=DEADLINE_SECONDS)


def test_the_service_is_ready_when_it_says_so(running: Running) -> None:
    with Client(running.url) as client:
        assert client.ready()
        assert list(client.jobs()) == []
    # The third comes when it is ready, so that it delays nothing.
    wait_for(lambda: set(running.children) == {"api", "worker", "inference"})
    assert running.home.stat().st_mode & 0o777 == 0o700


def test_a_second_owner_of_the_home_is_refused_and_told_of_the_first(running: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distillery", "up", "--home", str(running.home), "--port", "0"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert f"process {running.process.pid} at {running.url}" in refused.stderr
    assert "--home" in refused.stderr


def test_what_is_killed_comes_back(running: Running) -> None:
    before = running.children
    assert set(before) == {"api", "worker", "inference"}
    for child in before.values():
        child.kill()
    wait_for(lambda: set(running.children) == set(before) and not set(running.children.values()) & set(before.values()))
    with Client(running.url) as client:
        wait_for(client.ready)


def test_it_stops_cleanly_and_leaves_nobody_behind(tmp_path: Path) -> None:
    held = start(tmp_path / "home", cwd=tmp_path)
    children = held.children
    held.process.send_signal(signal.SIGTERM)
    _, errors = held.process.communicate(timeout=DEADLINE_SECONDS)
    assert held.process.returncode == 0, errors
    assert not any(child.is_running() for child in children.values())
    assert "Traceback" not in "".join(path.read_text() for path in (tmp_path / "home" / "logs").iterdir())


def test_a_killed_parent_takes_its_children_along_and_its_home_is_free(tmp_path: Path) -> None:
    held = start(tmp_path / "home", cwd=tmp_path)
    children = held.children
    held.process.kill()
    held.process.communicate()
    wait_for(lambda: not any(child.is_running() for child in children.values()))
    again = start(tmp_path / "home", cwd=tmp_path)
    again.process.terminate()
    again.process.communicate(timeout=DEADLINE_SECONDS)


def run(setup: Setup) -> None:
    up.run(setup, on_ready=lambda url: pytest.fail(f"ready at {url}"), say=print)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_open_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("DISTILLERY_API_KEY", raising=False)
    with pytest.raises(InvalidRequest, match="no key guards it") as caught:
        run(Setup(home=tmp_path, host=host))
    assert "DISTILLERY_API_KEY" in caught.value.hint


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            InvalidRequest, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ) as caught:
            run(Setup(home=tmp_path / "home", port=port))
    assert "--port" in caught.value.hint
    assert not (tmp_path / "home" / "distillery.db").exists()


@pytest.mark.parametrize(("package", "extra"), [("uvicorn", "service"), ("torch", "worker")])
def test_a_missing_extra_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=f"{package} cannot be found") as caught:
        run(Setup(home=tmp_path, port=0))
    assert f'pip install "distillery[{extra}]"' in caught.value.hint


def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="The database could not be made ready"):
        run(Setup(home=tmp_path, port=0, database_url="postgresql://127.0.0.1:1/none"))


def test_an_api_that_keeps_dying_is_given_up_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"(?s)The API keeps dying.*ftp"):
        run(Setup(home=tmp_path, port=0, artifacts="ftp://nowhere", workers=0))


def test_children_are_told_of_this_setup_and_of_no_other() -> None:
    given = {"DISTILLERY_REDIS_URL": "redis://elsewhere", "DISTILLERY_API_KEY": "k", "PYTHONPATH": "mine", "PATH": "p"}
    told = up.child_environment(Setup(home=Path("/h"), data=Path("/d")), given=given)
    assert told["DISTILLERY_DATABASE_URL"] == "sqlite:////h/distillery.db"
    assert told["DISTILLERY_ARTIFACTS"] == "/h/artifacts"
    assert told["DISTILLERY_WORK_DIR"] == "/h/work"
    assert told["DISTILLERY_DATA"] == "/d"
    assert "DISTILLERY_REDIS_URL" not in told
    assert (told["DISTILLERY_API_KEY"], told["PATH"], told["PYTHONSAFEPATH"]) == ("k", "p", "1")
    assert told["PYTHONPATH"].endswith(":mine")
