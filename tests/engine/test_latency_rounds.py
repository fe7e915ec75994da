"""The protocol under a simulated clock: contestants whose true times are known, no waiting."""

import gc
import math
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from distillery.report import Estimated, Verdict
from engine import intervals
from engine.latency.rounds import Plan, block_medians, interleave, plan, warm_up


class SimulatedTime:
    """A clock that moves only when a simulated contestant works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def contestant(self, seconds: Callable[[int], float]) -> Callable[[int], None]:
        """One whose n-th call (from 0, over its whole life) takes `seconds(n)`."""
        count = iter(range(10**9))

        def call(index: int) -> None:
            self.now += seconds(next(count))

        return call


def _measured(
    teacher: float, student: float, *, control: float | None = None, noise: float = 0.02, seed: int = 0
) -> tuple[Estimated, Estimated]:
    """Speed-up and control of 30 rounds with contestants of these true times and this spread."""
    clock, rng = SimulatedTime(), np.random.default_rng(seed)
    truth = {"teacher": teacher, "student": student, "control": student if control is None else control}

    def noisy(mean: float) -> Callable[[int], float]:
        return lambda n: mean * float(rng.lognormal(0, noise)) * (1 + 0.3 * math.sin(clock.now))  # the machine drifts

    contestants = {name: clock.contestant(noisy(mean)) for name, mean in truth.items()}
    calls = interleave(
        contestants, plan=Plan(rounds=30, calls=dict.fromkeys(truth, 13)), rng=np.random.default_rng(seed), clock=clock
    )
    medians = {name: block_medians(calls, name) for name in truth}
    return (
        intervals.ratio(medians["teacher"], medians["student"], rng=rng),
        intervals.ratio(medians["student"], medians["control"], rng=rng),
    )


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [(0.010, 0.005, "faster"), (0.005, 0.010, "slower"), (0.010, 0.010, "equivalent")],
)
def test_a_known_speedup_is_found_through_a_drifting_machine(teacher: float, student: float, expected: Verdict) -> None:
    speedup, control = _measured(teacher, student)
    assert speedup.low <= teacher / student <= speedup.high
    assert intervals.verdict(speedup, control=control) == expected


def test_noise_larger_than_the_difference_is_inconclusive() -> None:
    speedup, control = _measured(0.0103, 0.010, noise=0.5)
    assert intervals.verdict(speedup, control=control) == "inconclusive"


def test_a_harness_that_favours_one_copy_of_the_student_is_caught() -> None:
    speedup, control = _measured(0.010, 0.005, control=0.0052)
    assert intervals.verdict(speedup, control=control) == "invalid"


def test_every_round_holds_one_block_of_each_contestant_in_changing_order() -> None:
    clock = SimulatedTime()
    contestants = {name: clock.contestant(lambda n: 0.001) for name in ("teacher", "student", "control")}
    sizes = {"teacher": 3, "student": 5, "control": 5}
    calls = interleave(
        contestants, plan=Plan(rounds=60, calls=sizes), rng=np.random.default_rng(0), clock=clock, first_round=30
    )
    orders = set()
    for number in range(30, 90):
        mine = [call for call in calls if call.round == number]
        assert {name: sum(call.model == name for call in mine) for name in sizes} == sizes
        orders.add(tuple(dict.fromkeys(call.model for call in sorted(mine, key=lambda call: (call.order, call.call)))))
    assert len(orders) == 6
    assert len(calls) == 60 * 13


def test_the_same_seed_gives_the_same_order() -> None:
    def order(seed: int) -> list[str]:
        clock = SimulatedTime()
        contestants = {name: clock.contestant(lambda n: 0.001) for name in ("teacher", "student", "control")}
        planned = Plan(rounds=30, calls=dict.fromkeys(contestants, 1))
        return [
            call.model for call in interleave(contestants, plan=planned, rng=np.random.default_rng(seed), clock=clock)
        ]

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_the_collector_is_off_inside_a_block_and_on_again_after_it() -> None:
    seen = []

    def watching(index: int) -> None:
        seen.append(gc.isenabled())

    assert gc.isenabled()
    interleave(
        {"student": watching},
        plan=Plan(rounds=30, calls={"student": 2}),
        rng=np.random.default_rng(0),
        clock=SimulatedTime(),
    )
    assert not any(seen)
    assert gc.isenabled()


def test_what_is_raised_between_blocks_abandons_the_measurement() -> None:
    class Asked(Exception):
        pass

    def stop() -> None:
        raise Asked

    with pytest.raises(Asked):
        interleave(
            {"student": lambda index: None},
            plan=Plan(rounds=30, calls={"student": 1}),
            rng=np.random.default_rng(0),
            clock=SimulatedTime(),
            on_block=stop,
        )
    assert gc.isenabled()


def test_rounds_end_at_the_deadline_but_never_before_thirty() -> None:
    def held(deadline: float) -> int:
        clock = SimulatedTime()
        calls = interleave(
            {"student": clock.contestant(lambda n: 1.0)},
            plan=Plan(rounds=100, calls={"student": 1}),
            rng=np.random.default_rng(0),
            clock=clock,
            deadline=deadline,
        )
        return len(block_medians(calls, "student"))

    assert held(10.0) == 30
    assert held(45.0) == 45
    assert held(1000.0) == 100


def test_when_calls_become_slower_than_planned_late_blocks_end_as_soon_as_they_may() -> None:
    clock = SimulatedTime()
    planned = plan({"student": 0.001}, rounds=30, budget_seconds=6)
    calls = interleave(
        {"student": clock.contestant(lambda n: 0.001 if n < 200 else 0.1)},  # after four rounds, a busy machine
        plan=planned,
        rng=np.random.default_rng(0),
        clock=clock,
        deadline=6.0,
    )
    sizes = [sum(call.round == number for call in calls) for number in range(30)]
    assert sizes[:5] == [50] * 5
    assert sizes[-1] == 1  # one call of 0.1 s is a block of more than 50 ms
    assert clock.now < 10  # instead of 130 s


def test_the_block_median_ignores_one_interrupted_call() -> None:
    clock = SimulatedTime()
    calls = interleave(
        {"student": clock.contestant(lambda n: 5.0 if n % 13 == 6 else 0.004)},
        plan=Plan(rounds=30, calls={"student": 13}),
        rng=np.random.default_rng(0),
        clock=clock,
    )
    assert block_medians(calls, "student") == pytest.approx([0.004] * 30)


def test_warm_up_goes_on_until_three_blocks_agree() -> None:
    clock = SimulatedTime()
    warming = clock.contestant(lambda n: 0.010 * (1 + 5 * 0.9**n))
    told = warm_up(warming, clock=clock, most_seconds=60)
    assert told.steady
    assert told.seconds_per_call == pytest.approx(0.010, rel=0.02)
    assert told.calls > 40


def test_warm_up_that_never_steadies_stops_at_its_bound_of_calls() -> None:
    clock = SimulatedTime()
    told = warm_up(clock.contestant(lambda n: 0.004 * 1.02**n), clock=clock, most_seconds=math.inf, most_calls=500)
    assert not told.steady
    assert 500 <= told.calls < 520


def test_warm_up_of_a_slow_network_stops_at_its_bound_of_seconds() -> None:
    clock = SimulatedTime()
    told = warm_up(clock.contestant(lambda n: 10.0 + n), clock=clock, most_seconds=5)
    assert told.calls == 1
    assert not told.steady
    assert told.seconds_per_call == 10.0


def test_a_full_block_is_long_enough_and_gives_a_p99_over_thirty_rounds() -> None:
    planned = plan({"fast": 0.0005, "slow": 0.02, "instant": 1e-6}, rounds=30, budget_seconds=60)
    assert planned.calls == {"fast": 100, "slow": 13, "instant": 400}
    assert planned.calls["slow"] * 30 >= intervals.calls_needed(0.99)
    assert (planned.rounds, planned.notes) == (30, ())


def test_blocks_shrink_before_rounds_do_and_the_notes_say_so() -> None:
    planned = plan({"teacher": 0.5, "student": 0.01, "control": 0.01}, rounds=30, budget_seconds=60)
    assert planned.rounds == 30
    assert 1 <= planned.calls["teacher"] < 13
    assert planned.calls["student"] >= 5  # 50 ms
    assert planned.calls["student"] == planned.calls["control"]
    assert 30 * sum(planned.calls[name] * each for name, each in (("teacher", 0.5), ("student", 0.02))) <= 60
    assert any("shorter" in note for note in planned.notes)


def test_rounds_shrink_to_thirty_at_the_least() -> None:
    some = plan({"teacher": 1.0, "student": 0.125, "control": 0.125}, rounds=200, budget_seconds=60)
    assert some.rounds == 48
    assert any("48 rounds instead of the 200" in note for note in some.notes)
    slow = plan({"teacher": 10.0, "student": 1.0, "control": 1.0}, rounds=200, budget_seconds=60)
    assert slow.rounds == 30
    assert slow.calls == {"teacher": 1, "student": 1, "control": 1}
    assert any("360 s" in note for note in slow.notes)


def test_the_device_clock_is_kept_beside_the_host_clock() -> None:
    calls = interleave(
        {"student": lambda index: 0.25},
        plan=Plan(rounds=30, calls={"student": 1}),
        rng=np.random.default_rng(0),
        clock=SimulatedTime(),
    )
    assert median(call.device_seconds or 0 for call in calls) == 0.25
