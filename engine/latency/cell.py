"""One comparison: teacher and student in one runtime, on one device, at one batch size."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.report import Estimated, LatencyComparison, LatencyRow, Noise
from engine import intervals
from engine.black_box import OnnxNetwork
from engine.environment import ProcessorTime
from engine.export import TOLERANCE, difference
from engine.latency.memory import peak_growth
from engine.latency.noise import of_calls, of_control, of_machine, of_rounds, of_warmups, spread
from engine.latency.rounds import FEWEST_ROUNDS, Call, Plan, Warmup, block_medians, interleave, plan, warm_up
from engine.latency.samples import QualityImages, Timed
from engine.runtimes import Forms, Runtime, Session

TEACHER, STUDENT, CONTROL = "teacher", "student", "control"
CUDA_TOLERANCE = 2e-2
"""On CUDA, convolutions compute in TF32 (10 bits of mantissa) in PyTorch and ONNX Runtime alike."""
WARMUP_SHARE = 0.05
"""Of the budget, for each of the three contestants."""
MOST_LOOKS = 4
"""How often an inconclusive measurement is looked at and gone on with."""


@dataclass(frozen=True)
class Cell:
    """Where and how one comparison runs."""

    runtime: Runtime
    device: torch.device
    batch_size: int


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
    on_block: Callable[[], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A subject in a runtime, before the rounds."""

    subject: Subject
    session: Session
    cold_start_seconds: float
    peak_memory_bytes: int | None
    accuracy: float
    accuracy_lost: float
    agreement: float
    warmup: Warmup


@dataclass(frozen=True, eq=False)
class Pass:
    """Thirty rounds or more, and what they say."""

    teacher: Loaded
    student: Loaded
    calls: tuple[Call, ...]
    rounds: int
    speedup: Estimated
    control: Estimated
    noise: tuple[Noise, ...]
    notes: tuple[str, ...]


def measure(
    cell: Cell,
    *,
    teacher: Subject,
    student: Subject,
    batches: Sequence[Tensor],
    setting: Setting,
    rng: np.random.Generator,
) -> tuple[LatencyComparison, Timed]:
    """The comparison and its raw calls.

    Where the control fails and time is left, everything is loaded and measured once more: even a perfect control
    excludes 1 in one run of twenty. A second failure is no accident, and stands.

    Raises:
        ExportMismatch: a runtime of full precision does not give the eager network's answers.
    """

    def run(first_round: int, seconds: float) -> Pass:
        pair = (teacher, student)
        return _one_pass(
            cell, pair=pair, batches=batches, setting=setting, rng=rng, budget_seconds=seconds, first_round=first_round
        )

    began = time.monotonic()
    final = run(0, setting.budget_seconds)
    calls, notes = final.calls, final.notes
    spent = time.monotonic() - began
    if not intervals.includes_one(final.control) and 2 * spent < setting.budget_seconds:
        failed, final = final, run(final.rounds, setting.budget_seconds - spent)
        calls += final.calls
        notes = (
            f"Measured again with freshly loaded networks: the control of the first {failed.rounds} rounds was "
            f"{failed.control.low:.3f} to {failed.control.high:.3f}. Their calls stand in the raw samples only.",
            *final.notes,
        )
    timed = Timed(runtime=cell.runtime.name, device=cell.device.type, batch_size=cell.batch_size, calls=calls)
    return _comparison(cell, final, setting=setting, notes=notes), timed


def _one_pass(
    cell: Cell,
    *,
    pair: tuple[Subject, Subject],
    batches: Sequence[Tensor],
    setting: Setting,
    rng: np.random.Generator,
    budget_seconds: float,
    first_round: int,
) -> Pass:
    began = time.monotonic()
    loaded = {
        name: _load(subject, cell, batches=batches, setting=setting)
        for name, subject in ((TEACHER, pair[0]), (STUDENT, pair[1]), (CONTROL, pair[1]))
    }
    per_call = {name: each.warmup.seconds_per_call for name, each in loaded.items()}
    per_call[CONTROL] = per_call[STUDENT]  # so that both get blocks of the same size
    left_seconds = budget_seconds - (time.monotonic() - began)
    planned = plan(per_call, rounds=setting.rounds, budget_seconds=left_seconds)
    before = ProcessorTime.now()
    calls: list[Call] = []
    looks, deadline, started = 0, time.perf_counter() + left_seconds, time.perf_counter()
    while True:
        calls += interleave(
            {name: each.session.call for name, each in loaded.items()},
            plan=planned,
            rng=rng,
            clock=time.perf_counter,
            deadline=deadline,
            on_block=setting.on_block,
            first_round=first_round + len(block_medians(calls, STUDENT)),
        )
        looks += 1
        medians = {name: block_medians(calls, name) for name in loaded}
        speedup = intervals.ratio(medians[TEACHER], medians[STUDENT], rng=rng, looks=looks)
        control = intervals.ratio(medians[STUDENT], medians[CONTROL], rng=rng, looks=looks)
        held = len(medians[STUDENT])
        more = time.perf_counter() + FEWEST_ROUNDS * (time.perf_counter() - started) / held < deadline
        if intervals.verdict(speedup, control=control) != "inconclusive" or looks == MOST_LOOKS or not more:
            break
    noise = (
        *of_warmups({name: each.warmup.steady for name, each in loaded.items()}),
        *of_calls({name: [call.seconds for call in calls if call.model == name] for name in (TEACHER, STUDENT)}),
        *of_rounds({name: medians[name] for name in (TEACHER, STUDENT)}),
        *of_control(control),
        *of_machine(cell.device, before),
    )
    return Pass(
        teacher=loaded[TEACHER],
        student=loaded[STUDENT],
        calls=tuple(calls),
        rounds=held,
        speedup=speedup,
        control=control,
        noise=noise,
        notes=_pace_notes(planned, held=held, calls=len(calls), looks=looks),
    )


def _load(subject: Subject, cell: Cell, *, batches: Sequence[Tensor], setting: Setting) -> Loaded:
    """Load, make the cold first call, check the answers, warm up: in this order, so that the first call is cold."""

    def load_and_call() -> tuple[Session, float]:
        session = cell.runtime.load(
            Forms(subject.network, onnx=subject.onnx, int8=subject.int8), device=cell.device, threads=setting.threads
        )
        session.feed(batches)
        began = time.perf_counter()
        session.call(0)
        return session, time.perf_counter() - began

    (session, cold), peak = peak_growth(load_and_call, device=cell.device, in_torch=cell.runtime.form == "network")
    logits = setting.quality.answers(session)
    if cell.runtime.precision == "float32":
        difference(
            logits,
            eager=subject.eager,
            what=f"The {subject.model} in {cell.runtime.name} on {cell.device}",
            tolerance=CUDA_TOLERANCE if cell.device.type == "cuda" else TOLERANCE,
        )
    setting.on_block()
    return Loaded(
        subject=subject,
        session=session,
        cold_start_seconds=cold,
        peak_memory_bytes=peak,
        accuracy=setting.quality.accuracy(logits),
        accuracy_lost=setting.quality.accuracy(subject.eager) - setting.quality.accuracy(logits),
        agreement=float((logits.argmax(axis=1) == subject.eager.argmax(axis=1)).mean()),
        warmup=warm_up(session.call, clock=time.perf_counter, most_seconds=WARMUP_SHARE * setting.budget_seconds),
    )


def _pace_notes(planned: Plan, *, held: int, calls: int, looks: int) -> tuple[str, ...]:
    """What of the plan did not come to pass, and what was held beyond it."""
    slower = "because calls became slower than in the warm-up"
    notes = list(planned.notes)
    if held < planned.rounds:
        notes.append(f"{held} rounds instead of {planned.rounds}, {slower}.")
    if calls < held * sum(planned.calls.values()):
        notes.append(f"The blocks of some rounds were cut short, {slower}.")
    if looks > 1:
        notes.append(
            f"Inconclusive after {planned.rounds} rounds, so {held} were held; as they were looked at {looks} times, "
            f"the intervals are those of {1 - (1 - intervals.CONFIDENCE) / looks:.2%}."
        )
    return tuple(notes)


def _comparison(cell: Cell, final: Pass, *, setting: Setting, notes: tuple[str, ...]) -> LatencyComparison:
    teacher, student = (_row(cell, each, final.calls, setting=setting) for each in (final.teacher, final.student))
    return LatencyComparison(
        runtime=cell.runtime.name,
        device=cell.device.type,
        batch_size=cell.batch_size,
        threads=setting.threads,
        rounds=final.rounds,
        speedup=final.speedup,
        control=final.control,
        verdict=intervals.verdict(final.speedup, control=final.control),
        noise=final.noise,
        notes=(*notes, *_device_note(final.calls)),
        rows=(teacher, student),
    )


def _device_note(calls: Sequence[Call]) -> tuple[str, ...]:
    """What the device's own clock says, beside the host's."""
    told = {
        name: [call.device_seconds for call in calls if call.model == name and call.device_seconds is not None]
        for name in (TEACHER, STUDENT)
    }
    if not all(told.values()):
        return ()
    medians = ", ".join(f"{name} {1000 * median(seconds):.3f} ms" for name, seconds in told.items())
    return (f"Median call by CUDA events: {medians}.",)


def _row(cell: Cell, loaded: Loaded, calls: Sequence[Call], *, setting: Setting) -> LatencyRow:
    subject = loaded.subject
    seconds = [call.seconds for call in calls if call.model == subject.model]
    mean = fmean(seconds)
    file = subject.file_for(cell.runtime)
    p50, p90, p95, p99 = (intervals.percentile(seconds, share) for share in (0.5, 0.9, 0.95, 0.99))
    return LatencyRow(
        model=subject.model,
        runtime=cell.runtime.name,
        device=cell.device.type,
        batch_size=cell.batch_size,
        precision=cell.runtime.precision,
        threads=setting.threads,
        n=len(seconds),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean_seconds=mean,
        stdev_seconds=stdev(seconds),
        spread=spread(seconds),
        images_per_second=cell.batch_size / mean,
        parameters=subject.parameters,
        macs=subject.macs,
        file_bytes=file.stat().st_size if file is not None else 0,
        peak_memory_bytes=loaded.peak_memory_bytes,
        cold_start_seconds=loaded.cold_start_seconds,
        warmup_calls=loaded.warmup.calls,
        warmup_steady=loaded.warmup.steady,
        accuracy=loaded.accuracy,
        agreement=loaded.agreement,
        accuracy_lost=loaded.accuracy_lost,
        degraded=loaded.accuracy_lost > setting.max_accuracy_drop + 1e-9,
        quality_images=len(setting.quality),
    )
