"""Batch sweeps and servers of teacher and student in one runtime on one device, from tensors or from encoded bytes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import torch
from numpy.typing import NDArray

from distillery.report import Input, ServerResult, Stages, Sweep
from distillery.spec import LatencySpec
from engine.latency.encoded import EncodedSession, SampleImages, stages
from engine.latency.memory import memory_of
from engine.latency.server import gaps, highest_rate
from engine.latency.sweep import Call, sweep
from engine.runtimes import Runtime, Session

MODELS = ("teacher", "student")
OBJECTIVE_CALLS = 10
"""The objective of the server, where the spec names none, in median calls of the teacher."""
ALONE_SHARE = 0.05
"""Of the time of a server, for calls without waiting: a warm-up, and as long again timed."""
ALONE_CALLS = 10
MOST_ALONE_CALLS = 2000
FOR_ONE_SIZE = ("compiled", "cuda-graph")
"""Runtimes whose sessions are made for the shape that they are fed with: a sweep loads one for each batch size."""
SERVER_NOTE = (
    "The intervals take requests as independent; where they wait behind each other they are not, and the intervals of "
    "rates close to the highest are too narrow."
)

Load = Callable[[str], Session]
"""Loads `teacher` or `student` afresh."""


@dataclass(frozen=True, eq=False)
class Bench:
    """One runtime on one device, with one kind of input, and whom it loads."""

    load: Load
    runtime: Runtime
    device: torch.device
    images: SampleImages
    spec: LatencySpec
    input: Input
    rng: np.random.Generator
    """Draws the order of blocks and the bootstrap."""
    arrivals: NDArray[np.float64]
    """As of `server.gaps`: the same for both models."""
    on_block: Callable[[], None]

    def fed(self, model: str, batch_size: int, session: Session | None = None) -> tuple[Call, EncodedSession | None]:
        """A loaded network that can be called with batches of that size; `session` is loaded anew where none is given.

        Gives the whole of it as well, where it is called with encoded bytes.
        """
        session = session or self.load(model)
        if self.input == "model":
            session.feed(self.images.tensors(batch_size))
            return session.call, None
        encoded = EncodedSession(session, reading=self.images.reading)
        encoded.feed(self.images.encoded(batch_size))
        return encoded.call, encoded

    def swept(self, model: str) -> Sweep:
        """Its batch sweep, in half of the time of the spec."""
        session = None if self.runtime.name in FOR_ONE_SIZE else self.load(model)
        kept: dict[int, Call] = {}

        def ready(batch_size: int) -> Call:
            if session is not None:
                return self.fed(model, batch_size, session)[0]
            if batch_size not in kept:
                kept[batch_size] = self.fed(model, batch_size)[0]
            return kept[batch_size]

        done = sweep(
            ready,
            rng=self.rng,
            clock=time.perf_counter,
            seconds=self.spec.seconds / len(MODELS),
            memory=memory_of(self.device),
            on_block=self.on_block,
        )
        return Sweep(
            model=model, runtime=self.runtime.name, device=self.device.type, threads=self.spec.threads,
            input=self.input, rounds=done.rounds, points=done.points, best_batch_size=done.best_batch_size,
            stopped_by=done.stopped_by, stopped=done.stopped, notes=done.notes,
        )  # fmt: skip

    def alone(self, model: str) -> "Alone":
        """The model, loaded, with the times of its single calls without waiting."""
        self.on_block()
        call, encoded = self.fed(model, 1)
        seconds = ALONE_SHARE * self.spec.seconds / len(MODELS)
        timed_alone(call, seconds=seconds)  # a warm-up
        times = timed_alone(call, seconds=seconds)
        return Alone(
            call=call, p50=median(times), mean=fmean(times), stages=stages(encoded) if encoded is not None else None
        )

    def served(self, model: str, alone: "Alone", *, objective_seconds: float) -> ServerResult:
        """The search for its highest rate, in half of the time of the spec."""
        found = highest_rate(
            alone.call,
            gaps=self.arrivals,
            objective_seconds=objective_seconds,
            service_seconds=alone.mean,
            seconds=(1 - 2 * ALONE_SHARE) * self.spec.seconds / len(MODELS),
            on_pause=self.on_block,
        )
        return ServerResult(
            model=model, runtime=self.runtime.name, device=self.device.type, threads=self.spec.threads,
            input=self.input, objective_seconds=objective_seconds, service_seconds=alone.mean,
            highest_rate=found.highest, lowest_missed=found.lowest_missed, rates=found.rates, stages=alone.stages,
            notes=(*found.notes, SERVER_NOTE) if found.rates else found.notes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Alone:
    """A loaded network and seconds of its single calls when nobody waits."""

    call: Call
    p50: float
    mean: float
    stages: Stages | None


def timed_alone(call: Call, *, seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of consecutive calls: for so long, but at least ten of them and at most two thousand."""
    times: list[float] = []
    first = clock()
    while len(times) < MOST_ALONE_CALLS and (len(times) < ALONE_CALLS or clock() - first < seconds):
        began = clock()
        call(len(times))
        times.append(clock() - began)
    return times


def sweeps(bench: Bench) -> tuple[Sweep, ...]:
    """The batch sweeps of teacher and student, one after the other, each with all the memory to itself.

    Raises:
        DistilleryError, RuntimeError: of the runtime, other than a lack of memory.
    """
    return tuple(bench.swept(model) for model in MODELS)


def servers(bench: Bench) -> tuple[ServerResult, ...]:
    """The highest rates of teacher and student under the same arrivals and the same objective.

    Raises:
        DistilleryError, RuntimeError: of the runtime.
    """
    alone = {model: bench.alone(model) for model in MODELS}
    objective = bench.spec.p99_seconds or OBJECTIVE_CALLS * alone["teacher"].p50
    return tuple(bench.served(model, alone[model], objective_seconds=objective) for model in MODELS)


def measure(
    load: Load,
    *,
    runtime: Runtime,
    device: torch.device,
    images: SampleImages,
    spec: LatencySpec,
    rng: np.random.Generator,
    on_block: Callable[[], None] = lambda: None,
    inputs: Sequence[Input] | None = None,
) -> tuple[tuple[Sweep, ...], tuple[ServerResult, ...]]:
    """The sweeps and servers that `spec` asks for, in one runtime on one device; `inputs` are the spec's.

    Each pair of sweeps and each pair of servers has `spec.seconds`. PyTorch's CPU threads are set by the caller.
    `on_block` is called between blocks and between rates; what it raises abandons the measurement.

    Raises:
        DistilleryError, RuntimeError: of the runtime, other than a lack of memory in a sweep.
    """
    swept: list[Sweep] = []
    served: list[ServerResult] = []
    arrivals = gaps(rng.spawn(1)[0])  # a stream of their own: how often a sweep draws depends on the machine
    for each in dict.fromkeys(inputs or spec.inputs):
        bench = Bench(load, runtime, device, images, spec, each, rng, arrivals, on_block)
        if "batch_sweep" in spec.scenarios:
            swept += sweeps(bench)
        if "server" in spec.scenarios:
            served += servers(bench)
    return tuple(swept), tuple(served)
