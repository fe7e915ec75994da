"""What a contender is asked to train: plain values that travel to its process as JSON. Without torch."""

import dataclasses
import json
from dataclasses import dataclass

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
TEMPERATURE, HARD_WEIGHT, SOFT_WEIGHT = 4.0, 0.1, 0.9
"""Of `preset: kd`, the defaults for CIFAR."""
ENDLESS = 10_000
"""Epochs; nobody waits for the last."""


@dataclass(frozen=True)
class Task:
    """Knowledge distillation by SGD at a constant rate, with random crop and flip."""

    contender: str
    """`textbook`, `torchdistill`, `ours: <variant>` or `floor: <precision>`."""
    images: str
    """An archive as `benchmarks.contest.images` writes it."""
    teacher: str
    student: str
    batch_size: int = 64
    epochs: int = ENDLESS
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    teacher_weights: str = ""
    """A file that `benchmarks.contest.networks` reads; freshly drawn ones when empty."""
    jobs: tuple[tuple[float, float], ...] = ((TEMPERATURE, SOFT_WEIGHT),)
    """Temperature and soft weight of the trainings, one after another; the hard weight is what is left to 1."""
    scratch: str = ""
    """A folder for what outlives a training: the answers of the teacher. It is empty when the first one begins."""

    def dumped(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parsed(cls, text: str) -> "Task":
        values = json.loads(text)
        return cls(**values | {"jobs": tuple(tuple(job) for job in values["jobs"])})
