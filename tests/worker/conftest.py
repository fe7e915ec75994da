"""A service without its API: a real database, a real artifact folder, real worker processes with the tiny trainer."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distillery import spec as specs
from distillery.views import TERMINAL, Event, Job
from store import events, files, jobs, leases, metrics, wishes
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database
from worker.attempt import Programs, run_one

HERE = Path(__file__).parent
TINY = Programs(trainer=(sys.executable, str(HERE / "tiny_trainer.py")))
HELD = LeaseConfig(
    lease_seconds=30, heartbeat_seconds=0.25, reaper_seconds=0.3, save_budget_seconds=10, backoff_seconds=(0.1,)
)
_PATIENCE_SECONDS = 120.0


@dataclass
class Service:
    """What the tests drive and look at."""

    url: str
    folder: Path
    redis_url: str | None = None
    lease: LeaseConfig = HELD
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        self.artifacts = Artifacts(str(self.folder / "artifacts"))
        self.work_root = self.folder / "working"

    def spec(
        self,
        *,
        teacher: dict[str, Any] | None = None,
        priority: int = 50,
        max_seconds: float | None = None,
        **labels: str,
    ) -> specs.JobSpec:
        return specs.parse(
            {
                "dataset": {"name": "digits"},
                "teacher": teacher or {"architecture": "seed_teacher", "train": {"epochs": 1}},
                "student": {"architecture": "seed_student"},
                "resources": {"priority": priority, "max_seconds": max_seconds},
                "labels": {"trace": str(self.trace), "steps": "20", **labels},
            }
        )

    @property
    def programs(self) -> Programs:
        return TINY

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    def submit(self, **options: Any) -> str:
        sent = self.spec(**options)
        with self.database.transaction() as session:
            return jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id

    def cancel(self, job_id: str) -> None:
        with self.database.transaction() as session:
            wishes.cancel(session, job_id)

    def ask(self, verb: Callable[..., Any], job_id: str) -> None:
        """What a user asks of a job, such as `jobs.pause`."""
        with self.database.transaction() as session:
            verb(session, job_id)

    def reap(self) -> list[str]:
        with self.database.transaction() as session:
            return leases.reap(session, lease=self.lease)

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def events(self, job_id: str, kind: str | None = None) -> list[Event]:
        with self.database.read() as session:
            found = events.after(session, job_id, seq=0, limit=10_000)
        return [each for each in found if kind in (None, each.type)]

    def checkpoint_steps(self, job_id: str) -> list[tuple[int, int]]:
        """Attempt and step of each checkpoint that is kept, oldest first."""
        with self.database.read() as session:
            found = files.checkpoints(session, job_id)
        return sorted((each.attempt, each.step) for each in found)

    def content(self, job_id: str, name: str) -> bytes:
        """An artifact's bytes, verified against its row."""
        with self.database.read() as session:
            key, row = files.artifact_key(session, job_id, name), files.artifact(session, job_id, name)
        content = b"".join(self.artifacts.stream(key, start=0, end=row.size_bytes))
        assert hashlib.sha256(content).hexdigest() == row.sha256
        return content

    def go(self) -> None:
        """Let trainers that hold go on."""
        (self.folder / "go").touch()

    def loss_steps(self, job_id: str) -> list[int]:
        """The steps whose loss is recorded."""
        with self.database.read() as session:
            (series,) = metrics.series(session, job_id, keys=["training/loss"], max_points=1000).series
        return [point.step for point in series.points]

    def steps_taken(self) -> list[tuple[int, int]]:
        """Attempt and step of each step that any trainer took, in order."""
        if not self.trace.exists():
            return []
        return [(int(line.split()[0]), int(line.split()[1])) for line in self.trace.read_text().splitlines()]

    def trainer_pid(self) -> int:
        """The process that took the latest step."""
        return int(self.trace.read_text().splitlines()[-1].split()[2])

    def run_one(self, *, stop: threading.Event | None = None, **options: Any) -> bool:
        """The real thing, in this process."""
        given = {"worker": "here", "queues": ("default",), "lease": self.lease, "programs": TINY} | options
        stop = stop or threading.Event()
        return run_one(self.database, self.artifacts, stop=stop, work_root=self.work_root, **given)

    def start(
        self, script: str, *, lease_seconds: float | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A worker process of its own. Give the one that is to lose its job a lease that is soon over."""
        variables = os.environ | {
            "DISTILLERY_DATABASE_URL": self.url,
            "DISTILLERY_ARTIFACTS": str(self.folder / "artifacts"),
            "DISTILLERY_WORK_DIR": str(self.work_root),
            "DISTILLERY_LEASE_SECONDS": str(lease_seconds or self.lease.lease_seconds),
            "DISTILLERY_HEARTBEAT_SECONDS": str(self.lease.heartbeat_seconds),
            "DISTILLERY_REAPER_SECONDS": str(self.lease.reaper_seconds),
            "DISTILLERY_SAVE_BUDGET_SECONDS": str(self.lease.save_budget_seconds),
            "DISTILLERY_BACKOFF_SECONDS": ",".join(map(str, self.lease.backoff_seconds)),
            "DISTILLERY_STALL_SECONDS": str(self.lease.stall_seconds),
            "DISTILLERY_SPACE_WAIT_SECONDS": str(self.lease.space_wait_seconds),
        }
        variables.pop("DISTILLERY_REDIS_URL", None)
        if self.redis_url:
            variables["DISTILLERY_REDIS_URL"] = self.redis_url
        with (self.folder / f"worker-{len(self.processes)}.log").open("wb") as log:
            command = [sys.executable, str(HERE / script)]
            process = subprocess.Popen(command, env=variables | dict(environment or {}), stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_embedded(self, **options: Any) -> subprocess.Popen[bytes]:
        return self.start("embedded_with_tiny_trainer.py", **options)

    def start_celery(self, **options: Any) -> subprocess.Popen[bytes]:
        return self.start("celery_with_tiny_trainer.py", **options)

    def worker_log(self, number: int = 0) -> str:
        return (self.folder / f"worker-{number}.log").read_text()

    def until(self, condition: Callable[[], Any], *, seconds: float = _PATIENCE_SECONDS) -> Any:
        """Wait for a condition to hold; its value."""
        give_up = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > give_up:
                logs = "\n".join(self.worker_log(number)[-3000:] for number in range(len(self.processes)))
                pytest.fail(f"waited {seconds} s for a condition that never held; the workers said:\n{logs}")
            time.sleep(0.05)
        return value

    def until_ended(self, job_id: str) -> Job:
        self.until(lambda: self.job(job_id).status in TERMINAL)
        return self.job(job_id)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(taken >= step for _, taken in self.steps_taken()))

    def until_saved(self, job_id: str, *, step: int) -> None:
        """Wait for a checkpoint at or after the step to be committed; the trainer may be further by then."""
        self.until(lambda: any(saved >= step for _, saved in self.checkpoint_steps(job_id)))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        self.database.close()


def digest_after(steps: int) -> bytes:
    """What an uninterrupted tiny trainer delivers."""
    digest = ""
    for step in range(1, steps + 1):
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
    return digest.encode()


@pytest.fixture
def expected() -> Callable[[int], bytes]:
    """The student that an uninterrupted run of so many steps delivers."""
    return digest_after


@pytest.fixture
def service_at(tmp_path: Path) -> Iterator[Callable[[str], Service]]:
    """Makes a service on the database at an address."""
    made: list[Service] = []

    def make(url: str, redis_url: str | None = None) -> Service:
        made.append(Service(url, tmp_path, redis_url))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def service(database_url: str, service_at: Callable[[str], Service]) -> Service:
    """On SQLite and on Postgres."""
    return service_at(database_url)


@pytest.fixture
def embedded(sqlite_url: str, service_at: Callable[[str], Service]) -> Service:
    """On SQLite, without a broker."""
    return service_at(sqlite_url)


@pytest.fixture
def production(postgres_url: str, redis_url: str, service_at: Callable[[str, str], Service]) -> Service:
    """On Postgres and Redis."""
    return service_at(postgres_url, redis_url)


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process runs (a zombie does not)."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        except (FileNotFoundError, ProcessLookupError):
            return False

    return look
