"""Every comparison, sweep and server of a report, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from distillery.errors import (
    DistilleryError,
    ExportMismatch,
    InvalidRequest,
    MissingDependency,
    OutOfMemory,
    RuntimeCrashed,
)  # fmt: skip
from distillery.report import LatencyComparison, LatencyFailure, ServerResult, Sweep
from distillery.spec import LatencySpec
from engine.data.dataset import Dataset
from engine.latency import scenarios
from engine.latency.cell import measure
from engine.latency.encoded import SampleImages
from engine.latency.loading import Cell, Inputs, Setting, Subject
from engine.latency.own_process import in_own_process
from engine.latency.places import Place
from engine.latency.samples import Timed, batches
from engine.runtimes import Forms, Session

_BREAKS = (RuntimeCrashed, ExportMismatch, MissingDependency, InvalidRequest)
"""What costs a row and no more."""

Swept = tuple[tuple[Sweep, ...], tuple[ServerResult, ...]]


@dataclass(frozen=True, eq=False)
class Bench:
    """Two networks, and where and how they are to be measured."""

    pair: tuple[Subject, Subject]
    places: tuple[Place, ...]
    dataset: Dataset
    images: SampleImages
    spec: LatencySpec
    setting: Setting
    on_block: Callable[[], None]

    def cells(self) -> tuple[Cell, ...]:
        """The comparisons that are asked for."""
        if "single_stream" not in self.spec.scenarios:
            return ()
        return tuple(
            Cell(place.runtime, place.device, size, each)
            for place in self.places
            for each in dict.fromkeys(self.spec.inputs)
            for size in dict.fromkeys(self.spec.batch_sizes)
        )

    def comparisons(self) -> tuple[list[tuple[LatencyComparison, Timed]], tuple[LatencyFailure, ...]]:
        """Every comparison that came to its end, and what became of the others."""
        measured: list[tuple[LatencyComparison, Timed]] = []
        failed: list[tuple[Cell, DistilleryError]] = []
        for number, cell in enumerate(self.cells()):
            work = _Comparison(cell, self.pair, self._inputs(cell), self.setting, seed=(self.spec.seed, number))
            try:
                measured.append(in_own_process(work, on_tick=self.on_block))
            except _BREAKS as error:
                failed.append((cell, error))
        broken = [cell for cell, _ in failed]
        done = [cell for cell in self.cells() if cell not in broken]
        return measured, tuple(_failure(cell, error, done=done) for cell, error in failed)

    def _inputs(self, cell: Cell) -> Inputs:
        if cell.input == "end_to_end":
            return Inputs(files=self.images.encoded(cell.batch_size), reading=self.images.reading)
        return Inputs(batches=batches(self.dataset, batch_size=cell.batch_size))

    def scenarios(self) -> tuple[tuple[Sweep, ...], tuple[ServerResult, ...], tuple[LatencyFailure, ...]]:
        """The sweeps and servers that are asked for, and what became of those that broke off."""
        swept: list[Sweep] = []
        served: list[ServerResult] = []
        failed = []
        asked = [each for each in dict.fromkeys(self.spec.scenarios) if each != "single_stream"]
        works = [(place, scenario) for place in self.places for scenario in asked]
        for number, (place, scenario) in enumerate(works):
            only = self.spec.model_copy(update={"scenarios": (scenario,)})
            work = _Scenario(place, self.pair, self.images, only, seed=(self.spec.seed, 1_000_000 + number))
            try:
                sweeps, servers = in_own_process(work, on_tick=self.on_block)
            except _BREAKS as error:
                where = {"runtime": place.runtime.name, "device": place.device.type, "batch_size": 1}
                failed.append(LatencyFailure(**where, scenario=scenario, detail=error.detail, hint=error.hint))
                continue
            swept += sweeps
            served += servers
        return tuple(swept), tuple(served), tuple(failed)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """One comparison, in a form that another process can take up."""

    cell: Cell
    pair: tuple[Subject, Subject]
    inputs: Inputs
    setting: Setting
    seed: tuple[int, int]

    def __call__(self, tick: Callable[[], None]) -> tuple[LatencyComparison, Timed]:
        with cpu_threads(self.setting.threads):
            return measure(
                self.cell,
                teacher=self.pair[0],
                student=self.pair[1],
                inputs=self.inputs,
                setting=self.setting,
                rng=np.random.default_rng(self.seed),
                on_block=tick,
            )


@dataclass(frozen=True, eq=False)
class _Scenario:
    """The sweeps or the servers of one runtime on one device, in a form that another process can take up."""

    place: Place
    pair: tuple[Subject, Subject]
    images: SampleImages
    spec: LatencySpec
    seed: tuple[int, int]

    def __call__(self, tick: Callable[[], None]) -> Swept:
        subjects = {subject.model: subject for subject in self.pair}

        def load(model: str) -> Session:
            subject = subjects[model]
            forms = Forms(subject.network, onnx=subject.onnx, int8=subject.int8)
            return self.place.runtime.load(forms, device=self.place.device, threads=self.spec.threads)

        with cpu_threads(self.spec.threads):
            return scenarios.measure(
                load,
                runtime=self.place.runtime,
                device=self.place.device,
                images=self.images,
                spec=self.spec,
                rng=np.random.default_rng(self.seed),
                on_block=tick,
            )


def _failure(cell: Cell, error: DistilleryError, *, done: Sequence[Cell]) -> LatencyFailure:
    detail, hint = error.detail, error.hint
    if isinstance(error, OutOfMemory):
        fitted = [each.batch_size for each in done if (each.runtime, each.device) == (cell.runtime, cell.device)]
        largest = f"the largest batch that did was {max(fitted)}" if fitted else "no other batch was measured here"
        detail = f"A batch of {cell.batch_size} does not fit into memory; {largest}. ({error.detail})"
        hint = "Use a smaller batch."
    return LatencyFailure(
        runtime=cell.runtime.name,
        device=cell.device.type,
        batch_size=cell.batch_size,
        input=cell.input,
        detail=detail,
        hint=hint,
    )


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """PyTorch's CPU threads for as long as the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
