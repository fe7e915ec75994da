"""Metrics: overwritten when told again, thinned out without losing what matters."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import InvalidRequest, NotFound
from store import leases, metrics
from store.metrics import thinned


def points(series: Any) -> list[tuple[int, float | None]]:
    return [(point.step, point.value) for point in series.points]


def test_series_come_by_name_and_step(shop: Any) -> None:
    claim = shop.claimed()
    for step in (2, 1, 10):
        shop.do(leases.metrics, claim, step=step, values={"training/loss": step / 2, "lr": 0.1})
    found = shop.see(metrics.series, claim.id).series
    assert [each.key for each in found] == ["lr", "training/loss"]
    assert points(found[1]) == [(1, 0.5), (2, 1.0), (10, 5.0)]
    assert found[1].total_points == 3
    assert shop.job(claim.id).metrics == {"lr": 0.1, "training/loss": 5.0}
    only = shop.see(metrics.series, claim.id, keys=["lr", "unknown", "nul\x00"]).series
    assert [each.key for each in only] == ["lr"]
    assert shop.see(metrics.series, claim.id, keys=[]).series == ()


def test_a_resumed_attempt_overwrites_the_steps_it_repeats(shop: Any) -> None:
    claim = shop.claimed()
    for step in range(5):
        shop.do(leases.metrics, claim, step=step, values={"loss": 1.0})
    shop.do(leases.release, claim)
    again = shop.claim(claim.id)
    for step in range(3, 7):
        shop.do(leases.metrics, again, step=step, values={"loss": 2.0})
    (found,) = shop.see(metrics.series, claim.id).series
    assert points(found) == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_what_is_not_finite_is_null(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(leases.metrics, claim, step=1, values={"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    odd = {"a": float("nan"), "b": float("inf"), "c": None}
    shop.do(leases.metrics, claim, step=2, values=odd)
    assert [points(each) for each in shop.see(metrics.series, claim.id).series] == [
        [(1, 1.0), (2, None)], [(1, 1.0), (2, None)], [(1, 1.0), (2, None)], [(1, 1.0)],
    ]  # fmt: skip
    assert shop.job(claim.id).metrics == {"d": 1.0}


def test_a_long_series_keeps_its_ends_and_its_spikes(shop: Any) -> None:
    claim = shop.claimed()
    with shop.database.transaction() as session:
        for step in range(300):
            value = {150: 99.0, 220: -99.0, 250: float("nan")}.get(step, 1.0)
            leases.metrics(session, claim, step=step, values={"loss": value})
    (found,) = shop.see(metrics.series, claim.id, max_points=20).series
    assert found.total_points == 300
    assert len(found.points) <= 20
    assert {(0, 1.0), (150, 99.0), (220, -99.0), (250, None), (299, 1.0)} <= set(points(found))
    assert [step for step, _ in points(found)] == sorted({step for step, _ in points(found)})


@given(
    values=st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=120),
    most=st.integers(2, 40),
)
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float | None], most: int) -> None:
    told = list(enumerate(values))
    kept = [(point.step, point.value) for point in thinned(told, total=len(told), most=most)]
    assert len(kept) <= most
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert set(kept) <= set(told)
    if len(told) <= most:
        assert kept == told
    else:
        assert kept[0] == told[0] and kept[-1] == told[-1]
    finite = [value for value in values if value is not None]
    if most >= 4 and len(finite) == len(values) > 0:
        assert {min(finite), max(finite)} <= {value for _, value in kept}


@pytest.mark.parametrize("most", [1, 0, -3, 10_001])
def test_impossible_numbers_of_points_are_refused(shop: Any, most: int) -> None:
    claim = shop.claimed()
    with pytest.raises(InvalidRequest, match="'max_points' lies between"):
        shop.see(metrics.series, claim.id, max_points=most)


def test_no_series_of_a_job_that_never_was(shop: Any) -> None:
    with pytest.raises(NotFound):
        shop.see(metrics.series, "job_that_never_was")
