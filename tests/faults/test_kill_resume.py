"""A real distillation whose trainer is killed at random steps delivers, bit for bit, the student of a quiet run."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

from distillery import spec as specs
from distillery.views import Job
from store import files, jobs
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database
from worker.attempt import run_one

KILLS = 2
TOTAL_STEPS = 30
_PATIENCE_SECONDS = 400.0
_LEASE = LeaseConfig(lease_seconds=60, heartbeat_seconds=0.5, backoff_seconds=(0.0,))
_SPEC = {
    "teacher": {"architecture": "seed_student", "train": {"epochs": 2}, "minimum_accuracy": 0},
    "student": {"architecture": "seed_student"},
    "training": {
        "epochs": 3, "batch_size": 64, "seed": 11, "precision": "fp32", "device": "cpu", "threads": 1,
        "checkpoint_every": {"seconds": 0.05},
    },
    "baseline": False,
    "export": ["safetensors"],
    "latency": None,
}  # fmt: skip


class Bench:
    def __init__(self, url: str, folder: Path) -> None:
        self.database, self.artifacts = Database(url), Artifacts(str(folder / "artifacts"))
        self.folder = folder

    def submit(self) -> str:
        data = {"kind": "npz", "path": str(self.folder / "digits.npz"), "limit": 400, "augment": ["crop"]}
        sent = specs.parse(_SPEC | {"dataset": data})
        with self.database.transaction() as session:
            return jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id

    def run_to_the_end(self) -> None:
        """As many attempts as it takes."""
        options = {"worker": "here", "queues": ("default",), "lease": _LEASE, "work_root": self.folder / "working"}
        while run_one(self.database, self.artifacts, stop=threading.Event(), **options):
            pass

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def last_saved(self, job_id: str) -> tuple[int, int]:
        """Attempt and step of the newest checkpoint."""
        with self.database.read() as session:
            return max(((each.attempt, each.step) for each in files.checkpoints(session, job_id)), default=(0, 0))

    def student(self, job_id: str) -> str:
        with self.database.read() as session:
            return files.artifact(session, job_id, "student.safetensors").sha256


def _kill_once_past(bench: Bench, job_id: str, *, attempt: int, step: int) -> None:
    """SIGKILL to this process's trainer when the attempt has saved at or after the step."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while bench.last_saved(job_id) < (attempt, step):
        assert time.monotonic() < give_up, f"attempt {attempt} never saved step {step}"
        time.sleep(0.01)
    for child in psutil.Process().children():
        if "worker.run" in child.cmdline():
            child.kill()


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Bench:
    digits = load_digits()
    images = digits.images.astype(np.float64) * (255 / 16)
    np.savez(tmp_path / "digits.npz", images=images.round().astype(np.uint8), labels=digits.target.astype(np.int64))
    return Bench(sqlite_url, tmp_path)


@pytest.mark.timeout(900)  # each of the four trainers imports torch, which takes minutes where others crowd the cores
def test_killed_at_random_steps_the_student_is_that_of_an_uninterrupted_run(bench: Bench) -> None:
    quiet = bench.submit()
    bench.run_to_the_end()
    assert bench.job(quiet).status == "succeeded", bench.job(quiet).error
    steps = sorted(random.sample(range(1, TOTAL_STEPS - 4), KILLS))

    killed = bench.submit()
    worker = threading.Thread(target=bench.run_to_the_end)
    worker.start()
    for attempt, step in enumerate(steps, start=1):
        _kill_once_past(bench, killed, attempt=attempt, step=step)
    worker.join(_PATIENCE_SECONDS)

    job = bench.job(killed)
    assert job.status == "succeeded", (steps, job.error)
    assert [each.exit_code for each in job.attempts] == [-9] * KILLS + [0], steps
    resumed_at = [each.first_step for each in job.attempts[1:]]
    assert all(first is not None and first >= step for first, step in zip(resumed_at, steps, strict=True))
    assert bench.student(killed) == bench.student(quiet), f"killed after steps {steps}"
