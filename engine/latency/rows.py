"""What was timed, as the records of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from distillery.report import Estimated, LatencyComparison, LatencyRow, Noise
from engine import intervals
from engine.latency.loading import STUDENT, TEACHER, Cell, Loaded, Setting
from engine.latency.noise import spread
from engine.latency.rounds import FEWEST_LOADS, Call, Plan


def pace_notes(planned: Plan, *, held: int, calls: int, looks: int, loads: int) -> tuple[str, ...]:
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
    if loads < FEWEST_LOADS:
        times = "once" if loads == 1 else f"{loads} times"
        notes.append(
            f"There was time to load the networks only {times}. Where they lie in memory makes them a few percent "
            f"faster or slower, and that is then not in the interval."
        )
    return tuple(notes)


@dataclass(frozen=True, eq=False)
class Pass:
    """Thirty rounds or more, and what they say."""

    loaded: Mapping[str, Loaded]
    calls: tuple[Call, ...]
    rounds: int
    loads: int
    speedup: Estimated
    control: Estimated
    noise: tuple[Noise, ...]
    notes: tuple[str, ...]


def comparison(cell: Cell, final: Pass, *, setting: Setting, notes: tuple[str, ...]) -> LatencyComparison:
    """The record of the pass that counts; `notes` come before its own."""
    teacher, student = (_row(cell, final.loaded[name], final.calls, setting=setting) for name in (TEACHER, STUDENT))
    return LatencyComparison(
        runtime=cell.runtime.name,
        device=cell.device.type,
        batch_size=cell.batch_size,
        input=cell.input,
        threads=setting.threads,
        rounds=final.rounds,
        loads=final.loads,
        speedup=final.speedup,
        control=final.control,
        verdict=intervals.verdict(final.speedup, control=final.control),
        noise=final.noise,
        notes=(*notes, *final.notes, *_device_note(final.calls)),
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
        input=cell.input,
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
