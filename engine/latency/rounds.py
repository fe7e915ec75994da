"""The protocol itself: warm-up, block sizes, interleaved rounds in random order. It knows no network and no runtime.

A contestant is any callable that takes the number of a sample batch and returns when the answer is there. The clock
is a parameter, so the tests drive the whole protocol with simulated time.
"""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median

import numpy as np

BLOCK_SECONDS = 0.05
BLOCK_CALLS = 10
FULL_BLOCK_CALLS = 13
"""Thirty blocks of thirteen calls make the 368 calls that an interval for p99 needs."""
MOST_CALLS = 400
"""Keeps the raw samples of very fast networks at a readable size; a block of ten calls is long enough by the rule."""
FEWEST_ROUNDS = 30
FEWEST_LOADS = 6
"""From here on the loads are what the bootstrap draws from; with fewer it is the rounds, and that is told."""
STEADY_WITHIN = 0.02
WARMUP_CALLS = 10_000

Clock = Callable[[], float]
Contestant = Callable[[int], float | None]
"""Answers sample batch number `i`; gives the device's own seconds where the device has a clock (CUDA events)."""


@dataclass(frozen=True)
class Call:
    """One timed call: a row of the raw samples.

    `load` counts how often the networks had been loaded anew, `order` is the block's place in its round, from 0.
    """

    load: int
    round: int
    order: int
    model: str
    call: int
    seconds: float
    device_seconds: float | None


@dataclass(frozen=True)
class Warmup:
    """How the warm-up of one contestant went."""

    calls: int
    steady: bool
    seconds_per_call: float


@dataclass(frozen=True)
class Plan:
    """How many rounds there will be and how many calls each contestant's block has."""

    rounds: int
    calls: Mapping[str, int]
    """Of a block of each contestant."""
    least: Mapping[str, int] = field(default_factory=dict)
    """Calls that a block needs at the least, in rounds that are late; `calls` where it says nothing."""
    notes: tuple[str, ...] = ()


def warm_up(contestant: Contestant, *, clock: Clock, most_seconds: float, most_calls: int = WARMUP_CALLS) -> Warmup:
    """Call until the medians of three blocks in a row agree within 2 %, or until a bound is met."""
    began = clock()
    calls, size = 0, 1
    medians: list[float] = []
    while True:
        block = _block(contestant, size, clock=clock)
        calls += size
        medians.append(median(seconds for seconds, _ in block))
        steady = len(medians) >= 3 and max(medians[-3:]) <= min(medians[-3:]) * (1 + STEADY_WITHIN)
        if steady or calls >= most_calls or clock() - began >= most_seconds:
            return Warmup(calls=calls, steady=steady, seconds_per_call=medians[-1])
        if len(medians) == 1 and _full_block(medians[0]) > size:
            # The first block only told how long a call takes; from here on blocks have the size of measured ones.
            size, medians = min(_full_block(medians[0]), most_calls), []


def plan(seconds_per_call: Mapping[str, float], *, rounds: int, budget_seconds: float) -> Plan:
    """Fit the rounds into the budget: blocks shrink first (to 50 ms or 10 calls), then the rounds (to 30).

    The student and its control must have the same `seconds_per_call`, so that both get the same number of calls.
    """
    full = {name: _full_block(seconds) for name, seconds in seconds_per_call.items()}
    least = {name: _least_block(seconds) for name, seconds in seconds_per_call.items()}

    def cost(calls: Mapping[str, int]) -> float:
        return sum(calls[name] * seconds_per_call[name] for name in calls)

    calls = full
    for shrink in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
        if rounds * cost(calls) <= budget_seconds:
            break
        calls = {name: max(least[name], math.floor(full[name] * shrink)) for name in full}
    held = rounds
    if rounds * cost(calls) > budget_seconds:
        held = max(FEWEST_ROUNDS, min(rounds, math.floor(budget_seconds / cost(calls))))
    notes = []
    if calls != full:
        sizes = ", ".join(f"{name} {count}" for name, count in calls.items())
        notes.append(f"Blocks were made shorter to save time (calls per block: {sizes}).")
    if held < rounds:
        notes.append(f"{held} rounds instead of the {rounds} asked for, to save time.")
    if (least_seconds := held * cost(calls)) > budget_seconds:
        notes.append(f"Even the smallest sound measurement takes about {least_seconds:.0f} s for networks this slow.")
    return Plan(rounds=held, calls=calls, least=least, notes=tuple(notes))


def _full_block(seconds: float) -> int:
    """Calls of a block that is both long enough and, over 30 rounds, enough for a p99."""
    return min(MOST_CALLS, max(FULL_BLOCK_CALLS, math.ceil(BLOCK_SECONDS / seconds)))


def _least_block(seconds: float) -> int:
    """Calls of the smallest block that the protocol allows: 50 ms or 10 calls, whichever is less."""
    return min(BLOCK_CALLS, max(1, math.ceil(BLOCK_SECONDS / seconds)))


def interleave(
    contestants: Mapping[str, Contestant],
    *,
    plan: Plan,
    rng: np.random.Generator,
    clock: Clock,
    deadline: float = math.inf,
    on_block: Callable[[], None] = lambda: None,
    first_round: int = 0,
    load: int = 0,
) -> list[Call]:
    """Every round holds one block of each contestant, in an order drawn anew.

    Where calls become slower than planned, the blocks of late rounds end as soon as the protocol allows. Rounds end
    altogether when the clock passes `deadline`, but never before 30 of them. `on_block` is called between blocks,
    outside the timed calls; what it raises abandons the measurement.
    """
    names = tuple(contestants)
    calls: list[Call] = []
    gc.collect()
    began = clock()
    for number in range(plan.rounds):
        now = clock()
        if number >= FEWEST_ROUNDS and now >= deadline:
            break
        late = now - began > (deadline - began) * (number + 1) / plan.rounds
        for order, which in enumerate(rng.permutation(len(names))):
            name = names[which]
            on_block()
            if late:
                least = plan.least.get(name, plan.calls[name])
                timed = _block(contestants[name], least, clock=clock, enough_seconds=BLOCK_SECONDS)
            else:
                timed = _block(contestants[name], plan.calls[name], clock=clock)
            calls += [Call(load, first_round + number, order, name, index, *each) for index, each in enumerate(timed)]
    return calls


def _block(
    contestant: Contestant, size: int, *, clock: Clock, enough_seconds: float = math.inf
) -> list[tuple[float, float | None]]:
    """Consecutive calls of one contestant with the garbage collector off: seconds by the clock and by the device.

    `size` calls, or fewer when they have taken `enough_seconds`.
    """
    timed: list[tuple[float, float | None]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        first = clock()
        for index in range(size):
            began = clock()
            device_seconds = contestant(index)
            ended = clock()
            timed.append((ended - began, device_seconds))
            if ended - first >= enough_seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return timed


def block_medians(calls: Sequence[Call], model: str) -> list[float]:
    """The median call of each round's block of `model`, in seconds, in the order of the rounds."""
    return [seconds for _, seconds in _blocks(calls, model)]


def load_medians(calls: Sequence[Call], model: str) -> list[float]:
    """The geometric mean of `block_medians` over the rounds of each load, in seconds, in the order of the loads."""
    loads: dict[int, list[float]] = {}
    for load, seconds in _blocks(calls, model):
        loads.setdefault(load, []).append(seconds)
    return [geometric_mean(each) for each in loads.values()]


def _blocks(calls: Sequence[Call], model: str) -> list[tuple[int, float]]:
    """Load and median of each round's block."""
    blocks: dict[tuple[int, int], list[float]] = {}
    for call in calls:
        if call.model == model:
            blocks.setdefault((call.round, call.load), []).append(call.seconds)
    return [(load, median(blocks[number, load])) for number, load in sorted(blocks)]
