"""What counts as frozen: silence, measured against the pace of the steps before it."""

import pytest

from distillery.views import PhaseName, Progress
from worker.messages import PhaseBegan, Progressed
from worker.watchdog import Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(phase: PhaseName, *, stall_seconds: float = 300) -> tuple[Watchdog, Clock]:
    clock = Clock()
    watchdog = Watchdog(stall_seconds=stall_seconds, clock=clock)
    watchdog.hear([PhaseBegan(phase=phase)])
    return watchdog, clock


def step(watchdog: Watchdog, clock: Clock, *, to: int, seconds: float) -> None:
    clock.now += seconds
    watchdog.hear([Progressed(step=to, progress=Progress(phase="training", step=to))])


@pytest.mark.parametrize("phase", ["teaching", "assisting", "training", "baseline"])
def test_a_phase_of_steps_is_frozen_after_the_stall(phase: PhaseName) -> None:
    watchdog, clock = begun(phase)
    clock.now += 300
    assert watchdog.frozen_for() is None
    clock.now += 1
    assert watchdog.frozen_for() == 301


def test_slow_steps_are_given_ten_times_their_usual_duration() -> None:
    watchdog, clock = begun("training")
    for number in range(1, 6):
        step(watchdog, clock, to=number, seconds=60)
    assert watchdog.limit_seconds == 600
    step(watchdog, clock, to=105, seconds=100)  # told of a hundred steps at once: one second each
    assert watchdog.limit_seconds == 600, "one quick stretch does not change the median"


def test_any_word_is_a_sign_of_life() -> None:
    watchdog, clock = begun("training")
    clock.now += 299
    watchdog.hear([PhaseBegan(phase="baseline")])
    clock.now += 299
    watchdog.hear([])
    assert watchdog.frozen_for() is None
    clock.now += 2
    assert watchdog.frozen_for() == 301


def test_work_of_one_piece_may_be_silent_for_longer() -> None:
    watchdog, clock = begun("exporting")
    clock.now += 3600
    assert watchdog.frozen_for() is None
    clock.now += 1
    assert watchdog.frozen_for() == 3601
