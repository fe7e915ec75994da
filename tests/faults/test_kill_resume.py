"""A real distillation whose trainer is killed at random steps delivers, bit for bit, the student of a quiet run."""

import random
from pathlib import Path

import pytest

from benchmarks.chaos.weights import survive

KILLS = 2


@pytest.mark.timeout(900)  # each of the four trainers imports torch, which takes minutes where others crowd the cores
def test_killed_at_random_steps_the_student_is_that_of_an_uninterrupted_run(tmp_path: Path) -> None:
    survival = survive(tmp_path, kills=KILLS, seed=random.randrange(10_000))
    assert survival.complaints == [], survival
    assert len(survival.resumed_at) == KILLS
    assert len(survival.quiet) == 64
