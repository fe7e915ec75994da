"""What is to happen in a storm, drawn from its seed: the jobs, and the faults with their places in the run."""

import random
from dataclasses import dataclass
from typing import Literal

from distillery import spec as specs

Kind = Literal["kill", "stop", "flush", "crash", "cancel", "pause"]
LEASE_SECONDS = 2.0
STEPS = range(5, 21)
_PACE_SECONDS = (0.02, 0.08)
"""For one step. A job lasts about as long as it takes to start its trainer, so that a fault meets either."""
_LAST_PLACE = 0.97
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """How many of everything."""

    jobs: int
    kills: int
    stops: int
    flushes: int
    crashes: int
    cancels: int
    pauses: int
    celery: int
    """Workers that Redis hints at."""
    embedded: int
    """Workers that ask the database."""
    seed: int


@dataclass(frozen=True, order=True)
class Fault:
    """One of them. It is due `wait_seconds` after the share `place` of all jobs has ended.

    So the faults lie over the whole life of a run, however fast the machine is, and the wait keeps them from meeting
    only the moments in which a job ends.
    """

    place: float
    wait_seconds: float
    kind: Kind


def faults(plan: Plan, rng: random.Random) -> list[Fault]:
    """All of them, in the order of their places."""
    counts: dict[Kind, int] = {
        "kill": plan.kills, "stop": plan.stops, "flush": plan.flushes, "crash": plan.crashes,
        "cancel": plan.cancels, "pause": plan.pauses,
    }  # fmt: skip
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return sorted(Fault(rng.uniform(0, _LAST_PLACE), rng.uniform(0, _WAIT_SECONDS), kind) for kind in kinds)


def job(rng: random.Random) -> specs.JobSpec:
    """A job for the tiny trainer: some steps of some milliseconds, and a checkpoint every few of them."""
    labels = {
        "steps": str(rng.choice(STEPS)),
        "every": str(rng.randint(2, 5)),
        "pace": f"{rng.uniform(*_PACE_SECONDS):.3f}",
    }
    return specs.parse(
        {
            "dataset": {"name": "digits"},
            "teacher": {"architecture": "seed_teacher", "train": {"epochs": 1}},
            "student": {"architecture": "seed_student"},
            "labels": labels,
        }
    )


def stop_seconds(rng: random.Random) -> float:
    """How long a process stays stopped: two of five times for longer than the lease."""
    return rng.uniform(1.2, 3) * LEASE_SECONDS if rng.random() < 0.4 else rng.uniform(0.2, 0.7) * LEASE_SECONDS
