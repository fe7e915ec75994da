"""Throughput of one network against batch size: which sizes fit, then all of them in rounds of random order.

As sizes are first tried in growing order, a machine that drifts would favour one end; the figures therefore come from
rounds in which every size has one block, in an order drawn anew. The clock is a parameter, as in `rounds`.
"""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from distillery.report import SweepPoint
from engine import intervals
from engine.latency.memory import Memory, ran_out

SIZES = tuple(2**power for power in range(10))
"""1, 2, 4 ... 512."""
FEWEST_ROUNDS, MOST_ROUNDS = 12, 30
"""The bootstrap's interval is widened for small samples by an expansion that holds from eleven rounds on."""
BLOCK_SECONDS, SHORTEST_BLOCK_SECONDS = 0.05, 0.005
"""Blocks are shorter where there is little time."""
BLOCK_CALLS = 400
WARMUP_BLOCKS = 5
STEADY_WITHIN = 0.05
FALLEN_TO = 0.95
"""Throughput below this share of the highest before counts as fallen."""
FALLEN_SIZES = 2

Call = Callable[[int], object]
"""Answers sample batch number `i` and returns when the answer is there."""
Ready = Callable[[int], Call]
"""Makes everything ready for calls with batches of that size. It is called before every block and is not timed."""
StoppedBy = Literal["largest", "memory", "slower", "time"]


@dataclass(frozen=True)
class Stand:
    """What every step of one sweep is given."""

    ready: Ready
    clock: Callable[[], float]
    deadline: float
    block_seconds: float
    memory: Memory
    on_block: Callable[[], None]


@dataclass(frozen=True)
class Pace:
    """How long it takes to get ready for a batch size, and one call of it."""

    first_seconds: float
    """Of the first call of all, with whatever is loaded and compiled for it."""
    ready_seconds: float
    call_seconds: float

    def of_block(self, block_seconds: float) -> float:
        """Seconds of getting ready, one call that settles caches, and the timed calls."""
        return self.ready_seconds + self.call_seconds + max(block_seconds, self.call_seconds)


@dataclass(frozen=True)
class Block:
    """The timed calls of one batch size in one round."""

    images: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Found:
    """The batch sizes that can be measured, and why there are no more."""

    paces: dict[int, Pace]
    stopped_by: StoppedBy
    stopped: str


@dataclass(frozen=True)
class Swept:
    """What a sweep found. `points` is empty, and `best_batch_size` None, where not even one image fits."""

    points: tuple[SweepPoint, ...]
    best_batch_size: int | None
    rounds: int
    stopped_by: StoppedBy
    stopped: str
    notes: tuple[str, ...] = ()


def sweep(
    ready: Ready,
    *,
    rng: np.random.Generator,
    clock: Callable[[], float],
    seconds: float,
    memory: Memory,
    on_block: Callable[[], None] = lambda: None,
) -> Swept:
    """Images per second of batches of 1, 2, 4 ... 512.

    It takes longer than `seconds` only where the fewest rounds of the smallest batch do. `on_block` is called between
    blocks; what it raises abandons the sweep. So does what `ready` and its calls raise, other than a lack of memory.
    """
    shorter = seconds / (2 * FEWEST_ROUNDS * len(SIZES))
    stand = Stand(
        ready=ready,
        clock=clock,
        deadline=clock() + seconds,
        block_seconds=max(SHORTEST_BLOCK_SECONDS, min(BLOCK_SECONDS, shorter)),
        memory=memory,
        on_block=on_block,
    )
    found = _found(stand)
    rounds, lacking = _rounds(stand, found.paces, rng=rng)
    stopped_by, stopped = found.stopped_by, found.stopped
    if lacking:
        stopped_by, stopped = "memory", _does_not_fit(min(lacking))
    sizes = [size for size in found.paces if size not in lacking]
    blocks = {size: [held[size] for held in rounds] for size in sizes}
    return Swept(
        points=tuple(_point(size, blocks[size], rng=rng) for size in sizes),
        best_batch_size=best(blocks, rng=rng) if sizes else None,
        rounds=len(rounds) if sizes else 0,
        stopped_by=stopped_by,
        stopped=stopped,
        notes=_late(clock() - stand.deadline, seconds),
    )


def _found(stand: Stand) -> Found:
    """Try 1, 2, 4 ... until memory runs out, throughput has fallen twice in a row, or time would not do."""
    paces: dict[int, Pace] = {}
    growth: int | None = None
    for size in SIZES:
        stand.on_block()
        if reason := _no_room(size, growth, left=stand.memory.left()):
            return Found(paces, "memory", reason)
        if paces and _seconds_with_next(paces, stand.block_seconds) > stand.deadline - stand.clock():
            return Found(paces, "time", f"Time was up before a batch of {size}.")
        outcome = _tried(stand, size)
        if outcome is None:
            stand.memory.release()
            return Found(paces, "memory", _does_not_fit(size))
        growth, paces[size] = outcome
        if _fallen(paces):
            return Found(paces, "slower", f"Throughput had fallen for {FALLEN_SIZES} sizes in a row.")
    return Found(paces, "largest", f"{SIZES[-1]} is the largest batch that is tried.")


def _tried(stand: Stand, size: int) -> tuple[int | None, Pace] | None:
    """By how much memory grew, and the pace after a warm-up; None where memory ran out."""
    clock = stand.clock
    try:
        began = clock()
        growth = stand.memory.growth(lambda: _first_call(stand.ready, size))
        first = clock()
        call = stand.ready(size)
        ready_seconds = clock() - first
        medians: list[float] = []
        for _ in range(WARMUP_BLOCKS):
            medians.append(median(_timed(call, BLOCK_CALLS, clock=clock, enough_seconds=stand.block_seconds)))
            if len(medians) > 1 and max(medians[-2:]) <= min(medians[-2:]) * (1 + STEADY_WITHIN):
                break
    except Exception as error:
        if not ran_out(error):
            raise
        return None
    return growth, Pace(first_seconds=first - began, ready_seconds=ready_seconds, call_seconds=medians[-1])


def _first_call(ready: Ready, size: int) -> None:
    ready(size)(0)


def _does_not_fit(size: int) -> str:
    return f"A batch of {size} does not fit into memory."


def _no_room(size: int, growth: int | None, *, left: int | None) -> str:
    """Why a batch of twice the images would not fit, by what the last one took; empty where it may."""
    if growth is None or left is None or 2 * growth <= left:
        return ""
    need, have = 2 * growth / 1e9, left / 1e9
    return f"A batch of {size} was not tried: it needs about {need:.2g} GB of memory, and {have:.2g} GB are left."


def _seconds_with_next(paces: Mapping[int, Pace], block_seconds: float) -> float:
    """What the fewest rounds take with one more size, whose calls take twice as long, and its warm-up before them."""
    last = paces[max(paces)]
    following = 2 * last.of_block(block_seconds)
    a_round = sum(pace.of_block(block_seconds) for pace in paces.values()) + following
    return FEWEST_ROUNDS * a_round + last.first_seconds + 2 * following


def _fallen(paces: Mapping[int, Pace]) -> bool:
    """Whether the last two sizes each have clearly less throughput than the highest before them."""
    rates = [size / paces[size].call_seconds for size in sorted(paces)]
    before, last = rates[:-FALLEN_SIZES], rates[-FALLEN_SIZES:]
    return bool(before) and max(last) < FALLEN_TO * max(before)


def _rounds(
    stand: Stand, paces: Mapping[int, Pace], *, rng: np.random.Generator
) -> tuple[list[dict[int, Block]], set[int]]:
    """One block of every size in each round, and the sizes for which memory ran out after all."""
    rounds: list[dict[int, Block]] = []
    lacking: set[int] = set()
    gc.collect()
    longest = 0.0
    while len(rounds) < MOST_ROUNDS and set(paces) - lacking:
        began = stand.clock()
        if len(rounds) >= FEWEST_ROUNDS and began + longest > stand.deadline:
            break
        held: dict[int, Block] = {}
        for size in rng.permutation(sorted(set(paces) - lacking)).tolist():
            stand.on_block()
            block = _block(stand, size, paces[size])
            if block is None:
                lacking.add(size)
                stand.memory.release()
            else:
                held[size] = block
        rounds.append(held)
        longest = max(longest, stand.clock() - began)
    return rounds, lacking


def _block(stand: Stand, size: int, pace: Pace) -> Block | None:
    """Get ready, make one call that settles caches, then the timed ones; None where memory ran out."""
    calls = math.ceil(stand.block_seconds / pace.call_seconds) if pace.call_seconds else BLOCK_CALLS
    try:
        call = stand.ready(size)
        call(0)
        seconds = _timed(call, max(1, min(BLOCK_CALLS, calls)), clock=stand.clock)
    except Exception as error:
        if not ran_out(error):
            raise
        return None
    return Block(images=size * len(seconds), seconds=tuple(seconds))


def _timed(call: Call, calls: int, *, clock: Callable[[], float], enough_seconds: float = math.inf) -> list[float]:
    """Seconds of consecutive calls with the garbage collector off; fewer when they have taken `enough_seconds`."""
    seconds: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        first = clock()
        for index in range(calls):
            began = clock()
            call(index)
            ended = clock()
            seconds.append(ended - began)
            if ended - first >= enough_seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return seconds


def _point(size: int, blocks: Sequence[Block], *, rng: np.random.Generator) -> SweepPoint:
    return SweepPoint(
        batch_size=size,
        p50_seconds=median(seconds for block in blocks for seconds in block.seconds),
        images_per_second=intervals.ratio(
            [block.images for block in blocks], [sum(block.seconds) for block in blocks], rng=rng
        ),
    )


def best(blocks: Mapping[int, Sequence[Block]], *, rng: np.random.Generator) -> int:
    """The smallest size whose throughput cannot be told from the highest one.

    Round by round the highest throughput is divided by that of the size; where the 95 % interval of this ratio reaches
    down to 1.02 or less, the larger batch gains nothing worth a name, and costs latency and memory.
    """
    rates = {size: [block.images / sum(block.seconds) for block in held] for size, held in blocks.items()}
    highest = max(rates, key=lambda size: float(np.log(rates[size]).mean()))
    for size in sorted(rates):
        gain = intervals.ratio(rates[highest], rates[size], rng=rng)
        if gain.low <= 1 + intervals.EQUIVALENT_WITHIN:
            return size
    return highest


def _late(over_seconds: float, seconds: float) -> tuple[str, ...]:
    if over_seconds <= 0.1 * seconds:
        return ()
    return (f"Even the fewest rounds ({FEWEST_ROUNDS}) took {over_seconds:.0f} s longer than the {seconds:.0f} s.",)
