"""One comparison: teacher and student in one runtime, on one device, at one batch size."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from distillery.report import Estimated, LatencyComparison, Noise
from engine import intervals
from engine.environment import ProcessorTime
from engine.latency.loading import (
    CONTROL,
    STUDENT,
    TEACHER,
    Called,
    Cell,
    Elsewhere,
    Inputs,
    Loaded,
    Setting,
    Subject,
    load,
    loads_within,
    opened,
)  # fmt: skip
from engine.latency.noise import of_calls, of_control, of_machine, of_rounds, of_warmups
from engine.latency.rounds import FEWEST_LOADS, FEWEST_ROUNDS, Call, Plan, block_medians, interleave, load_medians, plan
from engine.latency.rows import Pass, comparison, pace_notes
from engine.latency.samples import Timed

MOST_LOOKS = 4
"""How often an inconclusive measurement is looked at and gone on with."""


def measure(
    cell: Cell,
    *,
    teacher: Subject,
    student: Subject,
    inputs: Inputs,
    setting: Setting,
    rng: np.random.Generator,
    on_block: Callable[[], None],
) -> tuple[LatencyComparison, Timed]:
    """The comparison and its raw calls.

    Where the control fails and time is left, everything is measured once more: even a perfect control excludes 1 in one
    run of twenty. A second failure is no accident, and stands.

    Raises:
        ExportMismatch: a runtime of full precision does not give the eager network's answers.
    """

    one_pass = partial(_one_pass, cell, (teacher, student), inputs, setting, rng=rng, on_block=on_block)
    began = time.monotonic()
    final = one_pass(budget_seconds=setting.budget_seconds, first_round=0)
    calls = final.calls
    notes: tuple[str, ...] = ()
    left_seconds = setting.budget_seconds - (time.monotonic() - began)
    if not intervals.includes_one(final.control) and 2 * left_seconds > setting.budget_seconds:
        failed, final = final, one_pass(budget_seconds=left_seconds, first_round=final.rounds)
        calls += final.calls
        notes = (
            f"Measured again: the control of the first {failed.rounds} rounds was {failed.control.low:.3f} to "
            f"{failed.control.high:.3f}. Their calls stand in the raw samples only.",
        )
    timed = Timed(cell.runtime.name, cell.device.type, cell.batch_size, cell.input, calls)
    return comparison(cell, final, setting=setting, notes=notes), timed


@dataclass(eq=False)
class _Rounds:
    """Rounds spread over loads, and what they say so far."""

    sessions: dict[str, Called]
    reload: Elsewhere
    loads: int
    """In each `hold`."""
    planned: Plan
    deadline: float
    rng: np.random.Generator
    on_block: Callable[[], None]
    first_round: int
    calls: list[Call] = field(default_factory=list)
    load: int = 1
    """How often everything has been loaded."""
    held: int = 0
    began: float = field(default_factory=time.perf_counter)

    def hold(self) -> None:
        """Hold the planned rounds, fewer when the deadline passes, but 30 at least."""
        share = -(-self.planned.rounds // self.loads)  # the same for all, so that a mean over loads is one over rounds
        for number in range(self.loads):
            now = time.perf_counter()
            if self.held >= FEWEST_ROUNDS and now >= self.deadline:
                return
            if self.calls and self.loads > 1:
                self.sessions.clear()
                self.sessions = self.reload()
                self.load += 1
            self.calls += interleave(
                {name: session.call for name, session in self.sessions.items()},
                plan=replace(self.planned, rounds=share),
                rng=self.rng,
                clock=time.perf_counter,
                deadline=now + (self.deadline - now) / (self.loads - number),
                on_block=self.on_block,
                first_round=self.first_round + self.held,
                load=self.load - 1,
            )
            self.held = len(block_medians(self.calls, STUDENT))

    def ratio(self, slow: str, fast: str, *, looks: int) -> Estimated:
        """Time of one over time of another: drawn from loads where there are enough, as calls of one load are akin."""
        units = load_medians if self.load >= FEWEST_LOADS else block_medians
        return intervals.ratio(units(self.calls, slow), units(self.calls, fast), rng=self.rng, looks=looks)

    def time_for_more(self) -> bool:
        """Whether 30 further rounds would be held before the deadline, at the pace so far."""
        now = time.perf_counter()
        return now + FEWEST_ROUNDS * (now - self.began) / self.held < self.deadline


def _one_pass(
    cell: Cell,
    pair: tuple[Subject, Subject],
    inputs: Inputs,
    setting: Setting,
    *,
    rng: np.random.Generator,
    budget_seconds: float,
    first_round: int,
    on_block: Callable[[], None],
) -> Pass:
    deadline = time.perf_counter() + budget_seconds
    subjects = {TEACHER: pair[0], STUDENT: pair[1], CONTROL: pair[1]}
    sessions: dict[str, Called] = {}
    loaded: dict[str, Loaded] = {}
    for name, subject in subjects.items():
        on_block()
        sessions[name], loaded[name] = load(subject, cell, inputs=inputs, setting=setting, checked=name != CONTROL)
    loads, planned = _planned(loaded, rounds=setting.rounds, left_seconds=deadline - time.perf_counter())
    openers = {
        name: partial(opened, subject, cell, inputs=inputs, threads=setting.threads)
        for name, subject in subjects.items()
    }
    before = ProcessorTime.now()
    rounds = _Rounds(
        sessions, Elsewhere(openers, rng=rng), loads, planned, deadline, rng=rng, on_block=on_block,
        first_round=first_round,
    )  # fmt: skip
    looks, speedup, control = _until_conclusive(rounds)
    return Pass(
        loaded=loaded,
        calls=tuple(rounds.calls),
        rounds=rounds.held,
        loads=rounds.load,
        speedup=speedup,
        control=control,
        noise=(
            *of_warmups({name: each.warmup.steady for name, each in loaded.items()}),
            *_noise_of(rounds.calls),
            *of_control(control),
            *of_machine(cell.device, before),
        ),
        notes=pace_notes(planned, held=rounds.held, calls=len(rounds.calls), looks=looks, loads=rounds.load),
    )


def _planned(loaded: Mapping[str, Loaded], *, rounds: int, left_seconds: float) -> tuple[int, Plan]:
    """How many loads there will be, and the rounds that fit in between."""
    # Of the student a second load was seen already, the control's: with what the runtime had kept of the first.
    again = min(1.0, loaded[CONTROL].seconds / loaded[STUDENT].seconds)
    reload_seconds = again * sum(each.seconds for each in loaded.values())
    loads = loads_within(left_seconds, seconds_each=reload_seconds)
    per_call = {name: each.warmup.seconds_per_call for name, each in loaded.items()}
    per_call[CONTROL] = per_call[STUDENT]  # so that both get blocks of the same size
    return loads, plan(per_call, rounds=rounds, budget_seconds=left_seconds - (loads - 1) * reload_seconds)


def _until_conclusive(rounds: _Rounds) -> tuple[int, Estimated, Estimated]:
    """Hold rounds until they tell something or time is up; how often was looked, speed-up and control."""
    looks = 0
    while True:
        rounds.hold()
        looks += 1
        speedup = rounds.ratio(TEACHER, STUDENT, looks=looks)
        control = rounds.ratio(STUDENT, CONTROL, looks=looks)
        conclusive = intervals.verdict(speedup, control=control) != "inconclusive"
        if conclusive or looks == MOST_LOOKS or not rounds.time_for_more():
            return looks, speedup, control


def _noise_of(calls: Sequence[Call]) -> Iterator[Noise]:
    names = (TEACHER, STUDENT)
    yield from of_calls({name: [call.seconds for call in calls if call.model == name] for name in names})
    yield from of_rounds({name: block_medians(calls, name) for name in names})
