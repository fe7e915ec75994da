"""A server of single images under requests that arrive at random: the highest rate at which p99 meets an objective.

The load is open: requests are due at moments drawn beforehand, and wait in line (first come, first served) when the
server is busy. Latency counts from the moment a request was due, so a stall delays all that were due meanwhile, and all
of them count it ("coordinated omission" is leaving them out). Clock and waiting are parameters.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from distillery.report import Percentile, ServedRate
from engine import intervals

SHARE = 0.99
FEWEST_REQUESTS = intervals.calls_needed(SHARE)
MOST_REQUESTS = 20_000
RATES = 8
"""Among how many rates the time is shared out; as many as the search usually tries."""
WITHIN = 0.05
"""The search ends when the lowest rate that missed lies at most so much above the highest that did not."""
FIRST_UTILISATION = 0.5
LOWEST_UTILISATION = 1 / 64
HIGHEST_UTILISATION = 4.0
"""Where a server still keeps up, its calls alone were timed wrongly, and the search ends with a note."""
UP = math.sqrt(2)
GIVEN_UP_AFTER = 10.0
"""Objectives: a request that waits longer shows a queue that grows without end, if the objective is missed by then."""
SPIN_SECONDS = 0.002
"""The kernel wakes a sleeper some 0.05 to 1 ms late; so long before the moment sleeping ends and looking begins."""

IDLE_SECONDS, LOOK_SECONDS = 0.02, 1.0
"""Once in so long, when the next request is not due for a while, whoever started the load may look in."""

Call = Callable[[int], object]
Wait = Callable[[float], None]
"""Returns at a moment of the clock, or at once if that has passed."""


def wait_until(
    moment: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Sleep until 2 ms before `moment`, then look at the clock until it is there.

    Exact to a microsecond where the thread keeps its processor; when it does not, it is late, never early.
    """
    while (left := moment - clock()) > SPIN_SECONDS:
        sleep(left - SPIN_SECONDS)
    while clock() < moment:
        pass


@dataclass(frozen=True)
class Served:
    """The requests of one rate, in their order."""

    latencies: tuple[float, ...]
    """Seconds from when a request was due until it was answered."""
    services: tuple[float, ...]
    """Seconds of the calls themselves."""
    late: tuple[float, ...]
    """Of the requests that found the server idle: by how much the waking was late. It is part of their latency."""
    cut_short: bool


@dataclass(frozen=True)
class Highest:
    """What the search found; rates in requests per second."""

    highest: float | None
    lowest_missed: float | None
    rates: tuple[ServedRate, ...]
    notes: tuple[str, ...]


def gaps(rng: np.random.Generator) -> NDArray[np.float64]:
    """Times between arrivals at one request per second.

    All rates and both models get the same ones, only faster: a fair comparison, and latencies that fall with the rate.
    """
    return rng.exponential(size=MOST_REQUESTS)


def serve(
    call: Call,
    *,
    due: Sequence[float],
    objective_seconds: float,
    clock: Callable[[], float],
    wait: Wait,
    on_idle: Callable[[], None] = lambda: None,
) -> Served:
    """Answer one request after the other, each when it is due (seconds from now) or as soon as the server is free.

    Requests end early when the objective is missed for certain (by more than 1 % of `due`) and the line is so long
    that a request has waited ten times the objective. `on_idle` is called about once a second while nobody waits; what
    it raises abandons them.
    """
    latencies, services, late = [], [], []
    allowed = len(due) - math.ceil(len(due) * SHARE)
    missed, cut_short = 0, False
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = free = looked = clock()
        for index, after in enumerate(due):
            moment = start + after
            if moment - free > IDLE_SECONDS and free - looked > LOOK_SECONDS:
                on_idle()
                looked = free
            wait(moment)
            began = clock()
            if missed > allowed and began - moment > GIVEN_UP_AFTER * objective_seconds:
                cut_short = True
                break
            call(index)
            if moment >= free:
                late.append(began - moment)
            free = clock()
            latencies.append(free - moment)
            services.append(free - began)
            missed += latencies[-1] > objective_seconds
    finally:
        if collecting:
            gc.enable()
    return Served(tuple(latencies), tuple(services), tuple(late), cut_short)


def judged(served: Served, *, rate: float, objective_seconds: float) -> ServedRate:
    """The percentiles of one rate, and whether it kept to the objective.

    A server with calls longer than the mean time between requests falls behind for ever: however small the latencies
    of these few requests were, it has missed.
    """
    if served.cut_short:
        reason = f"Given up after {len(served.latencies)} requests: the queue was growing without end."
        p50 = p95 = p99 = Percentile(seconds=None, reason=reason)
    else:
        p50, p95, p99 = (intervals.percentile(served.latencies, share) for share in (0.5, 0.95, SHARE))
    utilisation = rate * fmean(served.services)
    kept = p99.seconds is not None and p99.seconds <= objective_seconds
    return ServedRate(
        requests_per_second=rate, n=len(served.latencies), cut_short=served.cut_short, utilisation=utilisation,
        p50=p50, p95=p95, p99=p99, met=kept and utilisation < 1,
    )  # fmt: skip


def highest_rate(
    call: Call,
    *,
    gaps: NDArray[np.float64],
    objective_seconds: float,
    service_seconds: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    wait: Wait = wait_until,
    on_pause: Callable[[], None] = lambda: None,
) -> Highest:
    """Search the highest rate that keeps to the objective, by bisection of its logarithm to within 5 %.

    `service_seconds` is the mean call without waiting: half of its inverse is tried first, then faster or slower ones
    until one rate has met and one missed. A rate for whose fewest requests (368) too little of `seconds` is left is
    not tried, and a note says so. `on_pause` is called before each rate, and while no request waits; what it raises
    abandons the search.
    """
    deadline = clock() + seconds
    capacity = 1 / service_seconds
    rates: list[ServedRate] = []
    late: list[float] = []
    notes: list[str] = []
    rate: float | None = FIRST_UTILISATION * capacity
    while rate is not None:
        on_pause()
        count = _requests(rate, share=seconds / RATES, left=deadline - clock(), service_seconds=service_seconds)
        if not count:
            notes.append(_no_time(rate, rates, seconds=seconds))
            break
        due = (np.cumsum(gaps[:count]) / rate).tolist()
        served = serve(call, due=due, objective_seconds=objective_seconds, clock=clock, wait=wait, on_idle=on_pause)
        late += served.late
        rates.append(judged(served, rate=rate, objective_seconds=objective_seconds))
        rate = following(rates, capacity=capacity)
    low, high = bracket(rates)
    if low is not None and high is None and rate is None:
        notes.append("Every rate tried kept to the objective: calls are faster than they were alone.")
    return Highest(
        highest=low,
        lowest_missed=high,
        rates=tuple(sorted(rates, key=lambda each: each.requests_per_second)),
        notes=(*notes, *_lateness(late)),
    )


def bracket(rates: Sequence[ServedRate]) -> tuple[float | None, float | None]:
    """The lowest rate that missed, and the highest that met below it: `(highest, lowest missed)`."""
    high = min((each.requests_per_second for each in rates if not each.met), default=None)
    met = [each.requests_per_second for each in rates if each.met and (high is None or each.requests_per_second < high)]
    return max(met, default=None), high


def following(rates: Sequence[ServedRate], *, capacity: float) -> float | None:
    """The rate to try after these; None where the search is at its end."""
    low, high = bracket(rates)
    if low is None and high is not None:
        return high / 2 if high > LOWEST_UTILISATION * capacity else None
    if low is not None and high is None:
        return low * UP if low < HIGHEST_UTILISATION * capacity else None
    if low is None or high is None:
        raise AssertionError("The rate before has met or missed.")
    return math.sqrt(low * high) if high > low * (1 + WITHIN) else None


def _requests(rate: float, *, share: float, left: float, service_seconds: float) -> int:
    """How many requests fit into a share of the time, but at least the fewest; 0 where too little is left for them."""
    each = max(1 / rate, service_seconds)
    count = max(FEWEST_REQUESTS, min(MOST_REQUESTS, math.floor(min(share, left) / each)))
    return count if count * each <= left else 0


def _no_time(rate: float, rates: Sequence[ServedRate], *, seconds: float) -> str:
    needed = FEWEST_REQUESTS / rate
    tried = "the search ended there" if rates else "nothing was measured"
    return (
        f"{FEWEST_REQUESTS} requests, which a p99 needs, take {needed:.0f} s at {rate:.3g} requests/s; "
        f"of {seconds:.0f} s too few were left, so {tried}."
    )


def _lateness(late: Sequence[float]) -> tuple[str, ...]:
    if not late:
        return ()
    worst = sorted(late)[math.ceil(SHARE * len(late)) - 1]
    return (
        f"Requests to an idle server were taken up {1e6 * median(late):.0f} µs late at the median and "
        f"{1e6 * worst:.0f} µs at the 99th percentile, which counts as their latency.",
    )
