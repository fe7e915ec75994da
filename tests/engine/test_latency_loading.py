"""Loads through the rounds: how many there is time for, that each is another, and that intervals are of them."""

from collections.abc import Callable

import numpy as np
import pytest

from engine import intervals
from engine.latency.loading import Elsewhere, loads_within
from engine.latency.rounds import Call, block_medians, load_medians


@pytest.mark.parametrize(("seconds_each", "loads"), [(0.01, 10), (2.0, 9), (6.0, 3), (60.0, 1)])
def test_loads_take_no_more_than_their_share_of_the_time(seconds_each: float, loads: int) -> None:
    assert loads_within(60.0, seconds_each=seconds_each) == loads


class Fake:
    """A session that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self, index: int) -> None:
        self.calls += 1


def test_every_load_is_fresh_warm_and_in_an_order_of_its_own() -> None:
    order: list[str] = []

    def opener(name: str) -> Callable[[], Fake]:
        def opened() -> Fake:
            order.append(name)
            return Fake()

        return opened

    names = ("teacher", "student", "control")
    reload = Elsewhere({name: opener(name) for name in names}, rng=np.random.default_rng(0))  # type: ignore[arg-type]
    seen = [reload() for _ in range(8)]
    assert all(tuple(each) == names for each in seen)
    assert all(session.calls >= 2 for each in seen for session in each.values())  # type: ignore[union-attr]
    assert len({id(session) for each in seen for session in each.values()}) == 24
    assert len({tuple(order[at : at + 3]) for at in range(0, 24, 3)}) > 2


def _calls(model: str, seconds: Callable[[int, int], float], *, loads: int, rounds: int) -> list[Call]:
    return [
        Call(load, load * rounds + number, 0, model, 0, seconds(load, number), None)
        for load in range(loads)
        for number in range(rounds)
    ]


def test_a_load_is_the_geometric_mean_of_its_rounds() -> None:
    calls = _calls("student", lambda load, number: float(4**number * (load + 1)), loads=3, rounds=2)
    assert load_medians(calls, "student") == pytest.approx([2.0, 4.0, 6.0])
    assert block_medians(calls, "student") == [1.0, 4.0, 2.0, 8.0, 3.0, 12.0]


def _lucky(rng: np.random.Generator) -> list[Call]:
    """Ten loads of three rounds, of which each load is up to 3 % faster or slower."""
    luck, noise = rng.normal(0, 0.015, size=10), rng.normal(0, 0.002, size=(10, 3))
    return _calls("m", lambda load, number: float(np.exp(luck[load] + noise[load, number])), loads=10, rounds=3)


def test_luck_of_a_load_is_in_the_interval_of_loads_and_passes_for_a_difference_in_that_of_rounds() -> None:
    """Two copies of one network."""
    missed = {"rounds": 0, "loads": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one, other = (_lucky(rng) for _ in range(2))
        for name, units in (("rounds", block_medians), ("loads", load_medians)):
            told = intervals.ratio(units(one, "m"), units(other, "m"), rng=rng)
            missed[name] += not intervals.includes_one(told)
    assert missed["loads"] <= 20, "5 % of 200 are expected, and twice as many allowed"
    assert missed["rounds"] > 40


def test_looking_again_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    numerators = list(np.exp(rng.normal(0, 0.02, size=30)))
    once, fourth = (
        intervals.ratio(numerators, [1.0] * 30, rng=np.random.default_rng(1), looks=looks) for looks in (1, 4)
    )
    assert once.value == fourth.value
    assert fourth.low < once.low < once.high < fourth.high
    wider = np.log(fourth.high / fourth.low) / np.log(once.high / once.low)
    assert wider == pytest.approx(2.66 / 2.05, rel=0.1)  # Student's t at 98.75 and 95 %, 29 degrees of freedom
