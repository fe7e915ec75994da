"""Teacher, student and control loaded into a runtime: once with every check, and again and again for the rounds.

Where in memory a network comes to lie makes it a few percent faster or slower for as long as it is loaded, and differs
from load to load. So the rounds are spread over several loads, each in another order and behind other allocations: what
is luck differs between the loads then, and is seen in the interval where it would pass for a difference of networks.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.report import Input
from distillery.spec import LatencySpec
from engine.black_box import OnnxNetwork
from engine.export import TOLERANCE, difference
from engine.latency.encoded import Batch, EncodedSession, Reading
from engine.latency.memory import peak_growth
from engine.latency.rounds import BLOCK_SECONDS, Warmup, warm_up
from engine.latency.samples import QualityImages
from engine.runtimes import Forms, Runtime, Session

TEACHER, STUDENT, CONTROL = "teacher", "student", "control"
CUDA_TOLERANCE = 2e-2
"""On CUDA, convolutions compute in TF32 (10 bits of mantissa) in PyTorch and ONNX Runtime alike."""
WARMUP_SHARE = 0.05
"""Of the budget, for each of the three contestants."""
MOST_LOADS = 10
LOAD_SHARE = 0.3
"""Of the budget, for loading."""
_PADDINGS = 32
_MOST_PADDING_BYTES = 2**17

Called = Session | EncodedSession
"""What is timed: a network that is given tensors, or one that is given files."""


@dataclass(frozen=True)
class Cell:
    """Where and how one comparison runs."""

    runtime: Runtime
    device: torch.device
    batch_size: int
    input: Input = "model"


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the calls of a comparison are given: `batches`, or `files` and how they are read."""

    batches: tuple[Tensor, ...] = ()
    files: tuple[Batch, ...] = ()
    reading: Reading | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to be timed, with what is the same in every runtime. `eager` are its logits [N, K] on the CPU."""

    model: str
    network: nn.Module
    weights: Path
    onnx: Path | None
    int8: Path | None
    parameters: int | None
    macs: int | None
    eager: NDArray[np.float32]

    def file_for(self, runtime: Runtime) -> Path | None:
        """The file that `runtime` loads."""
        if isinstance(self.network, OnnxNetwork):
            return self.weights
        return {"network": self.weights, "onnx": self.onnx, "int8": self.int8}[runtime.form]


@dataclass(frozen=True, eq=False)
class Setting:
    """What all comparisons of a report share."""

    threads: int
    rounds: int
    quality: QualityImages
    budget_seconds: float
    max_accuracy_drop: float

    @classmethod
    def of(cls, spec: LatencySpec, quality: QualityImages) -> "Setting":
        """That of the spec."""
        return cls(spec.threads, spec.rounds, quality, spec.seconds, spec.max_accuracy_drop)


@dataclass(frozen=True, eq=False)
class Loaded:
    """What loading a subject into a runtime showed."""

    subject: Subject
    seconds: float
    """It took to load, cold first call included."""
    cold_start_seconds: float
    peak_memory_bytes: int | None
    accuracy: float
    accuracy_lost: float
    agreement: float
    warmup: Warmup


def opened(subject: Subject, cell: Cell, *, inputs: Inputs, threads: int) -> Called:
    """A fresh session with its inputs laid out."""
    forms = Forms(subject.network, onnx=subject.onnx, int8=subject.int8)
    session = cell.runtime.load(forms, device=cell.device, threads=threads)
    if inputs.reading is None:
        session.feed(inputs.batches)
        return session
    encoded = EncodedSession(session, reading=inputs.reading)
    encoded.feed(inputs.files)
    return encoded


def load(
    subject: Subject, cell: Cell, *, inputs: Inputs, setting: Setting, checked: bool = True
) -> tuple[Called, Loaded]:
    """Load, make the cold first call, check the answers, warm up: in this order, so that the first call is cold.

    Raises:
        ExportMismatch: a runtime of full precision does not give the eager network's answers.
    """

    def load_and_call() -> tuple[Called, float]:
        session = opened(subject, cell, inputs=inputs, threads=setting.threads)
        began = time.perf_counter()
        session.call(0)
        return session, time.perf_counter() - began

    began = time.perf_counter()
    (session, cold), peak = peak_growth(load_and_call, device=cell.device, in_torch=cell.runtime.form == "network")
    seconds = time.perf_counter() - began
    logits = setting.quality.answers(session.logits) if checked else subject.eager
    if cell.runtime.precision == "float32":
        difference(
            logits,
            eager=subject.eager,
            what=f"The {subject.model} in {cell.runtime.name} on {cell.device}",
            tolerance=CUDA_TOLERANCE if cell.device.type == "cuda" else TOLERANCE,
        )
    accuracy = setting.quality.accuracy(logits)
    return session, Loaded(
        subject=subject,
        seconds=seconds,
        cold_start_seconds=cold,
        peak_memory_bytes=peak,
        accuracy=accuracy,
        accuracy_lost=setting.quality.accuracy(subject.eager) - accuracy,
        agreement=float((logits.argmax(axis=1) == subject.eager.argmax(axis=1)).mean()),
        warmup=warm_up(session.call, clock=time.perf_counter, most_seconds=WARMUP_SHARE * setting.budget_seconds),
    )


def loads_within(budget_seconds: float, *, seconds_each: float) -> int:
    """How many loads of all contestants, which take `seconds_each`, the budget has room for."""
    return max(1, min(MOST_LOADS, int(LOAD_SHARE * budget_seconds / seconds_each)))


class Elsewhere:
    """Loads all contestants anew, each time in another order and at other places in memory."""

    def __init__(self, openers: Mapping[str, Callable[[], Called]], *, rng: np.random.Generator) -> None:
        self._openers = openers
        self._rng = rng
        self._padding: list[bytearray] = []

    def __call__(self) -> dict[str, Called]:
        """Fresh sessions by name, each warm. The caller has let go of the earlier ones."""
        gc.collect()
        sizes = self._rng.integers(16, _MOST_PADDING_BYTES, size=_PADDINGS)
        self._padding = [bytearray(int(size)) for size in sizes]
        names = tuple(self._openers)
        opened = {names[which]: self._openers[names[which]]() for which in self._rng.permutation(len(names))}
        for session in opened.values():
            _settle(session)
        return {name: opened[name] for name in names}


def _settle(session: Called) -> None:
    """Call for as long as a block lasts, twice at least."""
    began, index = time.perf_counter(), 0
    while index < 2 or time.perf_counter() - began < BLOCK_SECONDS:
        session.call(index)
        index += 1
