"""The two services that `api.py` holds against each other, each with its rows, and how each is asked for the same."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.api_load_queue import SPEC, fill
from distillery.supervisor import tie_to_this_process

REPOSITORY = Path(__file__).resolve().parents[1]
MLFLOW = REPOSITORY / ".peers-mlflow"
LOCK = Path(__file__).with_name("mlflow.lock")
READY_SECONDS = 180.0
PAGE_SIZE = 50
PARAMETERS = {
    "dataset.name": "digits", "teacher.architecture": "seed_teacher", "teacher.train.epochs": "2",
    "student.architecture": "seed_student", "method.strategy": "offline", "method.temperature": "4.0",
    "training.epochs": "10", "training.batch_size": "128", "training.optimizer": "sgd", "training.lr": "0.05",
    "training.momentum": "0.9", "training.weight_decay": "0.0005", "training.schedule": "cosine", "training.seed": "0",
}  # fmt: skip
"""What a spec says, as MLflow would be told it."""

Step = tuple[str, str, dict[str, Any] | None]
"""Method, path and body of a request."""


@dataclass(frozen=True)
class Running:
    """A service that is ready, with the ids of its rows."""

    name: str
    url: str
    key: str
    ids: Sequence[str]
    process: psutil.Process

    async def submit(self, http: httpx.AsyncClient, number: int) -> None:
        """Have one more thing kept."""
        if self.name == "Distillery":
            await _asked(http, ("POST", "/v1/jobs", SPEC))
            return
        body = {"experiment_id": "0", "start_time": int(1000 * time.time()), "run_name": f"more-{number}"}
        made = await _asked(http, ("POST", "/api/2.0/mlflow/runs/create", body))
        told = [{"key": key, "value": value} for key, value in PARAMETERS.items()]
        body = {"run_id": made["run"]["info"]["run_id"], "params": told}
        await _asked(http, ("POST", "/api/2.0/mlflow/runs/log-batch", body))

    async def get(self, http: httpx.AsyncClient, number: int) -> None:
        """One thing, whole."""
        one = self.ids[number * 7919 % len(self.ids)]
        mlflow = f"/api/2.0/mlflow/runs/get?run_id={one}"
        await _asked(http, ("GET", f"/v1/jobs/{one}" if self.name == "Distillery" else mlflow, None))

    async def list(self, http: httpx.AsyncClient, number: int) -> None:
        """The newest page."""
        if self.name == "Distillery":
            found = (await _asked(http, ("GET", f"/v1/jobs?page_size={PAGE_SIZE}", None)))["data"]
        else:
            body = {"experiment_ids": ["0"], "max_results": PAGE_SIZE}
            found = (await _asked(http, ("POST", "/api/2.0/mlflow/runs/search", body)))["runs"]
        assert len(found) == min(PAGE_SIZE, len(self.ids)) or number < 0, f"{len(found)} rows on a page"

    def memory(self) -> tuple[float, int]:
        """Megabytes of its processes by their proportional shares, and how many they are."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(each.memory_full_info().pss for each in processes) / 1e6, len(processes)


async def _asked(http: httpx.AsyncClient, step: Step) -> Any:
    method, path, body = step
    answer = await http.request(method, path, json=body)
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
    return answer.json()


@contextlib.contextmanager
def distillery(database_url: str, *, folder: Path, rows: int) -> Iterator[Running]:
    """Our API with a key, over so many queued jobs; its limits are the default ones, but for those on streams."""
    ids, key, port = fill(database_url, rows), secrets.token_hex(16), _free_port()
    environment = {
        "DISTILLERY_DATABASE_URL": database_url,
        "DISTILLERY_ARTIFACTS": str(folder / "artifacts"),
        "DISTILLERY_API_KEY": key,
        "DISTILLERY_STREAMS_PER_KEY": "1000",
        "DISTILLERY_MAX_CONNECTIONS": "1000",
    }
    command = [sys.executable, "-m", "app.serve", "--port", str(port)]
    with _served(command, environment, folder / "api.log", f"http://127.0.0.1:{port}/readyz") as process:
        yield Running("Distillery", f"http://127.0.0.1:{port}", key, ids, process)


@contextlib.contextmanager
def mlflow(database_url: str, *, folder: Path, rows: int, workers: int) -> Iterator[Running]:
    """MLflow's tracking server with so many processes, over so many runs."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONDONTWRITEBYTECODE": ""}
    script, artifacts = Path(__file__).with_name("api_mlflow_fill.py"), folder / "mlartifacts"
    command = [MLFLOW / "bin" / "python", script, database_url, artifacts, str(rows), json.dumps(PARAMETERS)]
    filled = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, check=True, text=True)
    ids, port = json.loads(filled.stdout.splitlines()[-1]), _free_port()
    served = [
        str(MLFLOW / "bin" / "mlflow"), "server", "--backend-store-uri", database_url, "--port", str(port),
        "--default-artifact-root", str(artifacts), "--no-serve-artifacts", "--workers", str(workers),
    ]  # fmt: skip
    with _served(served, quiet, folder / "mlflow.log", f"http://127.0.0.1:{port}/health") as process:
        yield Running("MLflow", f"http://127.0.0.1:{port}", "", ids, process)


def install_mlflow() -> None:
    """Make its environment as its lock says, unless it is there."""
    ready = MLFLOW / ".ready"
    if ready.exists() and ready.stat().st_mtime >= LOCK.stat().st_mtime:
        return
    uv = REPOSITORY / ".tool" / "bin" / "uv"
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, MLFLOW], check=True)
    python = MLFLOW / "bin" / "python"
    subprocess.run([uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK], check=True)
    ready.touch()


@contextlib.contextmanager
def _served(command: Sequence[str], environment: dict[str, str], log: Path, ready: str) -> Iterator[psutil.Process]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=tie_to_this_process(),
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(ready):
            assert process.poll() is None, f"{command[0]} ended:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{ready} does not answer:\n{log.read_text()[-2000:]}"
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address, timeout=10).is_success
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
