"""One comparison: teacher and student in one runtime, on one device, at one batch size."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.report import Estimated, LatencyComparison, LatencyRow
from engine import intervals
from engine.black_box import OnnxNetwork
from engine.environment import ProcessorTime, others_busy
from engine.export import TOLERANCE, difference
from engine.latency.memory import peak_growth
from engine.latency.rounds import Call, Plan, Warmup, block_medians, interleave, plan, warm_up
from engine.latency.samples import QualityImages, Timed
from engine.runtimes import Forms, Runtime, Session

TEACHER, STUDENT, CONTROL = "teacher", "student", "control"
CUDA_TOLERANCE = 2e-2
"""On CUDA, convolutions compute in TF32 (10 bits of mantissa) in PyTorch and ONNX Runtime alike."""
WARMUP_SHARE = 0.05
"""Of the budget, for each of the three contestants."""
BUSY_CORES = 0.25
"""Above this, the result says that the processor was shared."""
WIDE_CONTROL = 1.1
SHARED_GPU_BYTES = 2 * 2**30


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
    parameters: int | None
    macs: int | None
    eager: NDArray[np.float32]

    def file_for(self, runtime: Runtime) -> Path | None:
        """The file that `runtime` loads."""
        black_box = isinstance(self.network, OnnxNetwork)
        return self.onnx if runtime.form != "network" and not black_box else self.weights


@dataclass(frozen=True, eq=False)
class Setting:
    """What all comparisons of a report share."""

    threads: int
    rounds: int
    quality: QualityImages
    budget_seconds: float
    on_block: Callable[[], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A subject in a runtime, before the rounds."""

    subject: Subject
    session: Session
    cold_start_seconds: float
    peak_memory_bytes: int | None
    accuracy: float
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
        ExportMismatch: a runtime does not give the eager network's answers.
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
    return _comparison(cell, final, threads=setting.threads, notes=notes), timed


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
    calls = interleave(
        {name: each.session.call for name, each in loaded.items()},
        plan=planned,
        rng=rng,
        clock=time.perf_counter,
        deadline=time.perf_counter() + left_seconds,
        on_block=setting.on_block,
        first_round=first_round,
    )
    shared = _sharing(cell, before)
    medians = {name: block_medians(calls, name) for name in loaded}
    control = intervals.ratio(medians[STUDENT], medians[CONTROL], rng=rng)
    return Pass(
        teacher=loaded[TEACHER],
        student=loaded[STUDENT],
        calls=tuple(calls),
        rounds=len(medians[STUDENT]),
        speedup=intervals.ratio(medians[TEACHER], medians[STUDENT], rng=rng),
        control=control,
        notes=(
            *_pace_notes(planned, held=len(medians[STUDENT]), calls=len(calls)),
            *_noise_notes(loaded, control),
            *shared,
        ),
    )


def _load(subject: Subject, cell: Cell, *, batches: Sequence[Tensor], setting: Setting) -> Loaded:
    """Load, make the cold first call, check the answers, warm up: in this order, so that the first call is cold."""

    def load_and_call() -> tuple[Session, float]:
        session = cell.runtime.load(
            Forms(subject.network, onnx=subject.onnx), device=cell.device, threads=setting.threads
        )
        session.feed(batches)
        began = time.perf_counter()
        session.call(0)
        return session, time.perf_counter() - began

    (session, cold), peak = peak_growth(load_and_call, device=cell.device, in_torch=cell.runtime.form == "network")
    logits = setting.quality.answers(session)
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
        agreement=float((logits.argmax(axis=1) == subject.eager.argmax(axis=1)).mean()),
        warmup=warm_up(session.call, clock=time.perf_counter, most_seconds=WARMUP_SHARE * setting.budget_seconds),
    )


def _pace_notes(planned: Plan, *, held: int, calls: int) -> tuple[str, ...]:
    """What of the plan did not come to pass."""
    slower = "because calls became slower than in the warm-up"
    notes = list(planned.notes)
    if held < planned.rounds:
        notes.append(f"{held} rounds instead of {planned.rounds}, {slower}.")
    if calls < held * sum(planned.calls.values()):
        notes.append(f"The blocks of some rounds were cut short, {slower}.")
    return tuple(notes)


def _noise_notes(loaded: Mapping[str, Loaded], control: Estimated) -> tuple[str, ...]:
    notes = []
    unsteady = [name for name, each in loaded.items() if not each.warmup.steady]
    if unsteady:
        notes.append(f"The warm-up did not become steady within its bounds: {', '.join(unsteady)}.")
    if control.high / control.low > WIDE_CONTROL:
        notes.append(
            f"A noisy measurement: the student against itself came out anywhere from {control.low:.2f} to "
            f"{control.high:.2f}; differences smaller than that cannot be seen."
        )
    return tuple(notes)


def _sharing(cell: Cell, since: ProcessorTime) -> tuple[str, ...]:
    """Who else used the device while it was measured."""
    notes = []
    busy = others_busy(since)
    if busy is not None and busy > BUSY_CORES:
        notes.append(f"Shared processor: others kept {busy:.1f} of {os.cpu_count()} cores busy meanwhile.")
    if cell.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(cell.device)
        others = total - free - torch.cuda.memory_reserved(cell.device)
        if others > SHARED_GPU_BYTES:
            notes.append(f"Shared GPU: {others / 2**30:.1f} GiB of its memory are not held by this measurement.")
    return tuple(notes)


def _comparison(cell: Cell, final: Pass, *, threads: int, notes: tuple[str, ...]) -> LatencyComparison:
    teacher, student = (_row(cell, each, final.calls, threads=threads) for each in (final.teacher, final.student))
    return LatencyComparison(
        runtime=cell.runtime.name,
        device=cell.device.type,
        batch_size=cell.batch_size,
        threads=threads,
        rounds=final.rounds,
        speedup=final.speedup,
        control=final.control,
        verdict=intervals.verdict(final.speedup, control=final.control),
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


def _row(cell: Cell, loaded: Loaded, calls: Sequence[Call], *, threads: int) -> LatencyRow:
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
        threads=threads,
        n=len(seconds),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean_seconds=mean,
        stdev_seconds=stdev(seconds),
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
    )
