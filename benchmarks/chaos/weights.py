"""A real distillation whose trainer is killed at random steps, beside the same one left in peace."""

import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sklearn.datasets import load_digits

from distillery import spec as specs
from distillery.views import TERMINAL, Job
from store import files, jobs
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database, migrate
from worker.attempt import run_one

_PATIENCE_SECONDS = 400.0
_LEASE = LeaseConfig(lease_seconds=60, heartbeat_seconds=0.5, backoff_seconds=(0.0,), max_stalled_crashes=1000)
_TEACHER_EPOCHS = 2
_STEPS_PER_EPOCH = 6
_LAST_STEPS = 40
"""Nothing is planned for these: a trainer that has ended cannot be killed, and on a crowded machine it may take dozens
of steps before whoever means to kill it has its turn."""


@dataclass(frozen=True)
class Survival:
    """What became of the two jobs."""

    steps: list[int]
    """Each kill came once this step of the job had been saved."""
    resumed_at: list[int | None]
    """Where the attempt after each kill began."""
    exit_codes: list[int | None]
    quiet: str
    """Sha256 of the student that was trained in peace."""
    killed: str
    seconds: float
    seed: int

    @property
    def complaints(self) -> list[str]:
        """Everything that must not be."""
        found = []
        if self.exit_codes != [-9] * len(self.steps) + [0]:
            found.append(f"The attempts of the killed job ended with the exit codes {self.exit_codes}.")
        if not all(
            first is not None and first >= step for first, step in zip(self.resumed_at, self.steps, strict=False)
        ):
            found.append(f"Killed after the steps {self.steps}, it went on from {self.resumed_at}.")
        if self.killed != self.quiet:
            found.append(f"The student of the killed job is {self.killed}, the other one {self.quiet}.")
        return found


class Bench:
    """A service of one worker in this process, on SQLite, with the real trainer."""

    def __init__(self, folder: Path, *, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        url = f"sqlite:///{folder / 'distillery.db'}"
        migrate(url)
        self.database, self.artifacts = Database(url), Artifacts(str(folder / "artifacts"))
        digits = load_digits()
        images = digits.images.astype(np.float64) * (255 / 16)
        labels = digits.target.astype(np.int64)
        np.savez(folder / "digits.npz", images=images.round().astype(np.uint8), labels=labels)

    def submit(self) -> str:
        """Queue the distillation."""
        sent = specs.parse(self._spec())
        with self.database.transaction() as session:
            return jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id

    def _spec(self) -> dict[str, Any]:
        data = {"kind": "npz", "path": str(self.folder / "digits.npz"), "limit": 400, "augment": ["crop"]}
        teacher = {"architecture": "seed_student", "train": {"epochs": _TEACHER_EPOCHS}, "minimum_accuracy": 0}
        training = {
            "epochs": self.epochs, "batch_size": 64, "seed": 11, "precision": "fp32", "device": "cpu", "threads": 1,
            "checkpoint_every": {"seconds": 0.05},
        }  # fmt: skip
        student = {"architecture": "seed_student"}
        asked = {"baseline": False, "export": ["safetensors"], "latency": None}
        return {"dataset": data, "teacher": teacher, "student": student, "training": training, **asked}

    def run_to_the_end(self) -> None:
        """As many attempts as it takes."""
        working = self.folder / "working"
        options: dict[str, Any] = {"worker": "here", "queues": ("default",), "lease": _LEASE, "work_root": working}
        while run_one(self.database, self.artifacts, stop=threading.Event(), **options):
            pass

    def job(self, job_id: str) -> Job:
        """As it is now."""
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def kill_once_past(self, job_id: str, *, attempt: int, step: int) -> None:
        """SIGKILL to the trainer when the attempt has saved at or after the step; nothing when the job has ended."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while self._last_saved(job_id) < (attempt, step):
            assert time.monotonic() < give_up, f"attempt {attempt} never saved step {step}"
            if self.job(job_id).status in TERMINAL:
                return
            time.sleep(0.01)
        for child in psutil.Process().children():
            if "worker.run" in child.cmdline():
                child.kill()

    def _last_saved(self, job_id: str) -> tuple[int, int]:
        """Attempt and step of the newest checkpoint."""
        with self.database.read() as session:
            return max(((each.attempt, each.step) for each in files.checkpoints(session, job_id)), default=(0, 0))

    def student(self, job_id: str) -> str:
        """Sha256 of the delivered weights; says so when there are none."""
        job = self.job(job_id)
        if job.status != "succeeded":
            return f"missing: the job {job.status} ({job.status_reason})"
        with self.database.read() as session:
            return files.artifact(session, job_id, "student.safetensors").sha256


def survive(folder: Path, *, kills: int, seed: int) -> Survival:
    """Run the distillation in peace, then once more with so many kills, and compare the students."""
    began = time.monotonic()
    bench = Bench(folder, epochs=max(9, kills))
    steps = _drawn(bench.epochs, kills=kills, seed=seed)
    quiet = bench.submit()
    bench.run_to_the_end()
    killed = bench.submit()
    worker = threading.Thread(target=bench.run_to_the_end)
    worker.start()
    for attempt, step in enumerate(steps, start=1):
        bench.kill_once_past(killed, attempt=attempt, step=step)
    worker.join(_PATIENCE_SECONDS)
    attempts = bench.job(killed).attempts
    students = {"quiet": bench.student(quiet), "killed": bench.student(killed)}
    bench.database.close()
    return Survival(
        steps=steps,
        resumed_at=[each.first_step for each in attempts[1:]],
        exit_codes=[each.exit_code for each in attempts],
        seconds=time.monotonic() - began,
        seed=seed,
        **students,
    )


def _drawn(epochs: int, *, kills: int, seed: int) -> list[int]:
    """The steps of the job after which it is killed, rising."""
    total = (_TEACHER_EPOCHS + epochs) * _STEPS_PER_EPOCH
    rng = random.Random(seed)  # noqa: S311 - faults, not secrets
    return sorted(rng.sample(range(1, total - _LAST_STEPS), kills))
