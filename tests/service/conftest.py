"""Running services: the embedded one of a laptop, and the commands of docker-compose.yml on Postgres and Redis."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from distillery.client import Client

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 60
STOP_SECONDS = 40


def wait_until_ready(url: str, *processes: subprocess.Popen[bytes]) -> None:
    """Return when the service answers; fail as soon as one of its processes is dead."""
    import time

    deadline = time.monotonic() + READY_SECONDS
    with Client(url) as client:
        while not client.ready():
            dead = [process.args for process in processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                pytest.fail(f"The service at {url} is not ready; dead: {dead}")
            time.sleep(0.1)


@contextmanager
def running(command: list[str], *, log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session, ended by SIGTERM; its log is shown when it does not end cleanly."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"{command} did not stop on SIGTERM.\n{log.read_text()[-4000:]}")


@pytest.fixture
def embedded_service(tmp_path: Path, unused_port: Callable[[], int]) -> Iterator[str]:
    """`distillery up` in a home of its own; gives the URL."""
    port = unused_port()
    command = [sys.executable, "-m", "distillery", "up", "--home", str(tmp_path / "home"), "--port", str(port)]
    with running(command, log=tmp_path / "up.log", environment={}) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        yield url


class ComposeFile:
    """The services of docker-compose.yml as commands that run here."""

    def __init__(self, replacements: dict[str, str], *, port: int) -> None:
        self._replacements = replacements
        self._port = port
        self._services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))["services"]

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment, with the addresses of the test's own servers."""
        return {name: self._here(str(value)) for name, value in self._services[service]["environment"].items()}

    def command(self, service: str) -> list[str]:
        """The service's command, by this interpreter, on the loopback interface and a free port."""
        words = [
            {"0.0.0.0": "127.0.0.1", "8000": str(self._port)}.get(word, word)
            for word in self._services[service]["command"]
        ]
        return [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]

    def _here(self, value: str) -> str:
        value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        for name, replacement in self._replacements.items():
            value = value.replace(name, replacement)
        return value


@pytest.fixture
def compose_service(
    tmp_path: Path, empty_postgres_url: str, redis_url: str, unused_port: Callable[[], int]
) -> Iterator[str]:
    """migrate, api, worker and inference of docker-compose.yml, against real Postgres and Redis; gives the URL."""
    port = unused_port()
    replacements = {
        "postgresql://distillery:distillery@postgres:5432/distillery": empty_postgres_url,
        "redis://redis:6379/0": redis_url,
        "/var/lib/distillery": str(tmp_path / "lib"),
    }
    compose = ComposeFile(replacements, port=port)
    subprocess.run(
        compose.command("migrate"), cwd=REPOSITORY, env=os.environ | compose.environment("migrate"), check=True
    )
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                running(compose.command(name), log=tmp_path / f"{name}.log", environment=compose.environment(name))
            )
            for name in ("api", "worker", "inference")
        ]
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, *processes)
        yield url


@pytest.fixture(params=["embedded", "compose"])
def service(request: pytest.FixtureRequest) -> str:
    """URL of a running service: once without any server, once as the compose file runs it."""
    return str(request.getfixturevalue(f"{request.param}_service"))
