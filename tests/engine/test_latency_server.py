"""The server scenario under a simulated clock: against an exact simulation, and against what queueing theory says."""

import heapq
import itertools
import math
import time
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest

from distillery.report import Percentile, ServedRate
from engine.latency import server
from engine.latency.server import Highest, bracket, following, gaps, highest_rate, judged, serve, wait_until


class SimulatedServer:
    """A clock that moves only while the server works or everybody waits. `oversleeps` is how late each waking is."""

    def __init__(self, seconds: Callable[[int], float], *, oversleeps: float = 0.0) -> None:
        self.now = 100.0
        self._seconds = seconds
        self._oversleeps = oversleeps

    def clock(self) -> float:
        return self.now

    def wait(self, moment: float) -> None:
        if moment > self.now:
            self.now = moment + self._oversleeps

    def call(self, index: int) -> None:
        self.now += self._seconds(index)

    def serve(self, due: list[float], *, objective: float = math.inf) -> server.Served:
        return serve(self.call, due=due, objective_seconds=objective, clock=self.clock, wait=self.wait)

    def search(self, *, objective: float, service: float, seconds: float = 1e5, **more: object) -> Highest:
        return highest_rate(
            self.call, gaps=gaps(np.random.default_rng(3)), objective_seconds=objective, service_seconds=service,
            seconds=seconds, clock=self.clock, wait=self.wait, **more,
        )  # fmt: skip


def by_events(due: list[float], services: list[float]) -> list[float]:
    """The latencies of one server, first come first served, by a simulation of events that shares no code with it."""
    events = [(moment, 1, number) for number, moment in enumerate(due)]  # 1: an arrival, 0: an answer
    heapq.heapify(events)
    line: list[int] = []
    busy, answered = False, [math.nan] * len(due)
    while events:
        now, arrival, number = heapq.heappop(events)
        if arrival:
            line.append(number)
        else:
            busy, answered[number] = False, now
        if line and not busy:
            busy = True
            heapq.heappush(events, (now + services[line[0]], 0, line.pop(0)))
    return [answer - moment for answer, moment in zip(answered, due, strict=True)]


@pytest.mark.parametrize("rate", [20.0, 80.0, 140.0])
def test_latencies_are_those_of_an_exact_simulation_of_the_queue(rate: float) -> None:
    rng = np.random.default_rng(int(rate))
    due = (np.cumsum(rng.exponential(size=2000)) / rate).tolist()
    services = rng.lognormal(math.log(0.01), 0.5, size=2000).tolist()
    served = SimulatedServer(services.__getitem__).serve(due)
    assert served.latencies == pytest.approx(by_events(due, services))
    assert served.services == pytest.approx(services)
    assert not served.cut_short


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_the_mean_wait_is_that_of_the_theory_for_constant_service(load: float) -> None:
    service = 0.01
    waits = []
    for seed in range(20):
        due = np.cumsum(gaps(np.random.default_rng(seed))) * service / load
        served = SimulatedServer(lambda index: service).serve(due.tolist())
        waits.append(fmean(served.latencies) - service)
    expected = load * service / (2 * (1 - load))  # M/D/1, by Pollaczek and Khinchine
    assert fmean(waits) == pytest.approx(expected, rel=0.03)


def test_arrivals_are_poisson_and_come_from_the_seed() -> None:
    drawn = gaps(np.random.default_rng(0))
    assert np.array_equal(drawn, gaps(np.random.default_rng(0)))
    assert not np.array_equal(drawn, gaps(np.random.default_rng(1)))
    counts = np.bincount(np.cumsum(drawn).astype(int))[:-1]
    assert counts.mean() == pytest.approx(1, abs=0.03)
    assert counts.var() == pytest.approx(1, abs=0.05)


def test_a_stall_counts_for_everyone_who_was_due_meanwhile() -> None:
    stalled = SimulatedServer(lambda index: 1.0 if index == 10 else 0.001)
    served = stalled.serve([0.1 * number for number in range(30)])
    assert served.latencies[9] == pytest.approx(0.001)
    assert served.latencies[10] == pytest.approx(1.0)
    assert served.latencies[11:14] == pytest.approx([0.901, 0.802, 0.703])
    assert sum(latency > 0.05 for latency in served.latencies) == 10  # and not the one call alone
    assert max(served.services[11:]) == pytest.approx(0.001)


def test_late_waking_counts_as_latency_of_requests_to_an_idle_server() -> None:
    served = SimulatedServer(lambda index: 0.01, oversleeps=0.002).serve([0.0, 1.0, 1.001, 2.0])
    assert served.latencies == pytest.approx([0.01, 0.012, 0.021, 0.012])
    assert served.late == pytest.approx([0.0, 0.002, 0.002])


def test_a_diverging_queue_is_cut_short_and_counts_as_missed() -> None:
    rate, service = 200.0, 0.01  # twice what the server can do
    due = (np.cumsum(gaps(np.random.default_rng(0))) / rate).tolist()
    served = SimulatedServer(lambda index: service).serve(due, objective=0.05)
    told = judged(served, rate=rate, objective_seconds=0.05)
    assert served.cut_short
    assert sum(latency > 0.05 for latency in served.latencies) == 201  # 1 % of all 20,000 may miss
    assert told.n < 300
    assert (told.met, told.cut_short, told.p99.seconds) == (False, True, None)
    assert "queue was growing" in told.p50.reason


def test_one_stall_does_not_cut_a_rate_short() -> None:
    due = (np.cumsum(gaps(np.random.default_rng(0))) / 10).tolist()
    served = SimulatedServer(lambda index: 2.0 if index == 500 else 0.001).serve(due, objective=0.05)
    assert not served.cut_short
    assert len(served.latencies) == len(due)
    assert judged(served, rate=10, objective_seconds=0.05).met


def test_a_server_that_falls_behind_has_missed_however_small_its_latencies() -> None:
    due = (np.cumsum(gaps(np.random.default_rng(0))[:400]) / 105).tolist()
    told = judged(SimulatedServer(lambda index: 0.01).serve(due), rate=105, objective_seconds=60)
    assert told.p99.seconds is not None
    assert told.p99.seconds < 60
    assert told.utilisation == pytest.approx(1.05)
    assert not told.met


@pytest.mark.parametrize("objective", [2.0, 5.0, 20.0])
def test_the_search_finds_the_rate_that_an_exact_simulation_finds(objective: float) -> None:
    """In units of the (constant) service time."""
    found = SimulatedServer(lambda index: 1.0).search(objective=objective, service=1.0, seconds=1e6)
    assert found.highest is not None
    assert found.lowest_missed is not None
    assert found.highest < found.lowest_missed <= 1.05 * found.highest
    assert len(found.rates) <= server.RATES + 2
    drawn = np.cumsum(gaps(np.random.default_rng(3)))
    told = [each for each in found.rates if not each.cut_short]
    assert [each.requests_per_second for each in told] == sorted(each.requests_per_second for each in told)
    for each in told:
        truth = by_events((drawn[: each.n] / each.requests_per_second).tolist(), [1.0] * each.n)
        p99 = float(np.quantile(truth, 0.99, method="inverted_cdf"))
        assert each.p99.seconds == pytest.approx(p99)
        assert each.met == (p99 <= objective and each.utilisation < 1)


def test_an_objective_below_the_service_time_is_missed_at_every_rate() -> None:
    found = SimulatedServer(lambda index: 1.0).search(objective=0.9, service=1.0, seconds=1e7)
    assert found.highest is None
    assert found.lowest_missed == pytest.approx(server.LOWEST_UTILISATION)
    assert not any(each.met for each in found.rates)


def test_a_loose_objective_ends_at_what_the_server_can_do() -> None:
    found = SimulatedServer(lambda index: 1.0).search(objective=1e4, service=1.0, seconds=1e6)
    assert found.highest is not None
    assert 0.95 <= found.highest < 1
    assert found.lowest_missed is not None
    assert found.lowest_missed <= 1.05


def test_calls_that_were_timed_too_long_do_not_bound_the_search() -> None:
    found = SimulatedServer(lambda index: 0.7).search(objective=1e4, service=1.0, seconds=1e6)
    assert found.highest == pytest.approx(1 / 0.7, rel=0.06)


def test_without_time_for_the_fewest_requests_nothing_is_said_of_a_rate() -> None:
    found = SimulatedServer(lambda index: 1.0).search(objective=10.0, service=1.0, seconds=500)
    assert (found.highest, found.lowest_missed, found.rates) == (None, None, ())
    assert "368 requests, which a p99 needs, take 736 s at 0.5 requests/s" in found.notes[0]
    assert "nothing was measured" in found.notes[0]


def test_a_search_that_runs_out_of_time_tells_its_bracket() -> None:
    simulated = SimulatedServer(lambda index: 1.0)
    found = simulated.search(objective=10.0, service=1.0, seconds=2000)
    assert found.highest is not None
    assert all(each.n >= server.FEWEST_REQUESTS for each in found.rates if not each.cut_short)
    assert "the search ended there" in found.notes[0]
    assert simulated.now - 100 <= 2000 * 1.1


def test_what_is_raised_between_rates_abandons_the_search() -> None:
    class Stopped(Exception):
        pass

    looks = iter(range(10))

    def on_pause() -> None:
        if next(looks) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        SimulatedServer(lambda index: 1.0).search(objective=10.0, service=1.0, on_pause=on_pause)


def test_someone_may_look_in_once_a_second_while_nobody_waits() -> None:
    simulated = SimulatedServer(lambda index: 0.001)
    looks: list[float] = []
    due = [0.1 * number for number in range(100)] + [10 + 0.001 * number for number in range(5000)]
    serve(
        simulated.call, due=due, objective_seconds=1, clock=simulated.clock, wait=simulated.wait,
        on_idle=lambda: looks.append(simulated.now - 100),
    )  # fmt: skip
    assert len(looks) == 9
    assert all(1 < later - earlier < 1.2 for earlier, later in itertools.pairwise(looks))
    assert max(looks) < 10  # from then on the server is busy


def _rate(value: float, *, met: bool) -> ServedRate:
    told = Percentile(seconds=1.0)
    return ServedRate(requests_per_second=value, n=400, utilisation=0.5, p50=told, p95=told, p99=told, met=met)


def test_a_rate_that_met_above_one_that_missed_is_not_the_highest() -> None:
    rates = [_rate(1.0, met=True), _rate(2.0, met=False), _rate(3.0, met=True)]
    assert bracket(rates) == (1.0, 2.0)
    assert following(rates, capacity=4.0) == pytest.approx(math.sqrt(2))
    assert following([_rate(1.0, met=True), _rate(1.05, met=False)], capacity=4.0) is None


def test_waiting_sleeps_first_and_looks_at_the_clock_at_the_end() -> None:
    now, slept = [0.0], []

    def clock() -> float:
        now[0] += 1e-7  # looking takes time
        return now[0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds + 0.0005  # the kernel wakes it late

    wait_until(1.0, clock=clock, sleep=sleep)
    assert slept == pytest.approx([0.998], abs=1e-5)
    assert 1.0 <= now[0] < 1.0 + 1e-6
    wait_until(0.5, clock=clock, sleep=sleep)
    assert len(slept) == 1
    assert now[0] < 1.0 + 1e-6


def test_a_real_wait_is_never_short() -> None:
    for seconds in (0.0, 0.0005, 0.005):
        moment = time.perf_counter() + seconds
        wait_until(moment)
        assert time.perf_counter() >= moment
