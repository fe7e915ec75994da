"""What a job will take, from a burst of each of its trainings on the device that will run it."""

import resource
import shutil
import sys
from collections.abc import Iterator

import torch
from torch import nn

from distillery.errors import StorageFull
from distillery.spec.methods import DataFreeMethod, SelfDistillationMethod
from distillery.views import Estimate, Interval
from engine.data.memory import available_bytes
from models import catalog
from worker.bursts import Bursts, synthesis_batches, timed
from worker.journal import Journal
from worker.messages import Estimated
from worker.ready import Ready, fresh

TRAINING = (0.7, 1.8)
"""Of the time that the bursts promise, what training may take: machines are shared, and slow down when they are hot."""
STARTING_SECONDS = (1.5, 10.0)
"""Loading the libraries, before anything can be timed."""
SAVING_SECONDS = (0.01, 0.15)
EXPORT_SECONDS = (1.5, 12.0)
"""Of one network in one form besides its weights, checked."""
REPORT_SECONDS = (0.5, 8.0)
ROUNDS_SECONDS = (0.15, 0.6)
"""Of one round of the latency protocol for quick networks: three blocks of 50 ms, and what goes on between them."""
COMPARING_SECONDS = (2.0, 20.0)
"""Of one comparison besides its rounds: loading, warming up, quality."""
CALLS = (10, 30)
"""Of each contestant in a round, where calls are slow."""
COMPILING_SECONDS = (5.0, 90.0)
"""Teacher, student and control by torch.compile, besides."""
SCENARIO_SHARE = (0.1, 1.2)
"""Of the time of the spec, for a pair of sweeps or of servers: those that end early and those that are late."""
OVERTIME = 1.5
"""A comparison rarely takes longer than its time and the warm-up."""
EXPORT_BYTES = 500_000_000
"""What exporters, runtimes and plots may take besides."""
MEMORY_GROWTH = 1.25
SMALL_FILES_BYTES = (50_000, 6_000_000)
"""The report; and of every comparison the raw times."""
CHECKPOINT_MARGIN = 1.1


def tell(ready: Ready, *, journal: Journal) -> None:
    """Estimate what the job will take, tell it, and warn where that is more than it may take.

    Raises:
        StorageFull: the disk has clearly too little space for what will be written.
        worker.halts.Halt: memory ran out.
        engine.loop.Stopped: asked to leave.
    """
    estimate, warnings = estimated(ready, journal=journal)
    journal.teller.tell(Estimated(estimate=estimate))
    for warning in warnings:
        journal.warn(warning)


def estimated(ready: Ready, *, journal: Journal) -> tuple[Estimate, tuple[str, ...]]:
    """What the job will take, and warnings about it; raises as `tell` does."""
    bursts = timed(ready, journal=journal)
    estimate = Estimate(
        seconds=_seconds(ready, bursts),
        memory_bytes=_memory(ready, bursts),
        artifact_bytes=_disk(ready, bursts),
        notes=tuple(_notes(ready, bursts)),
    )
    journal.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(journal.out).free
    if free < estimate.artifact_bytes.low:
        raise StorageFull(
            f"The job will write at least {_megabytes(estimate.artifact_bytes.low)}; {_megabytes(free)} are free.",
            hint="Free some space, keep fewer checkpoints (training.keep), or use a worker with a larger disk.",
            pointer="/training/keep",
        )
    return estimate, tuple(_warnings(ready, estimate, free=free))


def _notes(ready: Ready, bursts: Bursts) -> Iterator[str]:
    where = "the graphics card" if ready.device.type == "cuda" else "the trainer's process"
    steps = sum(each.pace.steps for each in bursts.trainings)
    yield f"Told by {steps} steps of training on this worker, which were thrown away. The memory is that of {where}."
    late = [each.plan.run for each in bursts.trainings if not each.pace.steps]
    if late:
        yield f"Of {', '.join(late)} not even the first step ended in time: it will take longer than is told here."
    recalled = max(each.recalled for each in bursts.trainings)
    if recalled:
        yield f"The teacher is asked once about each view: at least {recalled:.0%} of its answers will be read."
    if ready.spec.latency is not None:
        yield "Timing student against teacher takes long where rounds come out unevenly, as on a busy machine."


def _seconds(ready: Ready, bursts: Bursts) -> Interval:
    held_back = 0 if isinstance(ready.spec.method, DataFreeMethod) else len(ready.dataset.validation)
    synthesis = synthesis_batches(ready)
    # The least: what another job has asked a given teacher already, nobody asks again.
    trainings = (
        tuple(each.warm if any(each is not None for each in ready.teachers) else each for each in bursts.trainings),
        bursts.trainings,
    )
    work = [
        sum(
            each.seconds(held_back=held_back, synthesis=synthesis if each.plan.run == "training" else 0)
            for each in either
        )
        for either in trainings
    ]
    # Of what was trained here the best and the last network answer the test split.
    answered = sum(2 * each.plan.times * each.image_seconds for each in bursts.trainings) + sum(bursts.given)
    work = [each + len(ready.dataset.test) * answered for each in work]
    saves = sum(each.plan.times * each.saves for each in bursts.trainings)
    exported = (_exits(ready) + 1) * sum(form != "safetensors" for form in ready.spec.export)
    low, high = (
        ready.preparing_seconds
        + STARTING_SECONDS[end]
        + TRAINING[end] * work[end]
        + saves * SAVING_SECONDS[end]
        + exported * EXPORT_SECONDS[end]
        + _comparing(ready, bursts, end=end)
        + REPORT_SECONDS[end]
        for end in (0, 1)
    )
    return Interval(low=low, high=high)


def _exits(ready: Ready) -> int:
    method = ready.spec.method
    delivered = isinstance(method, SelfDistillationMethod) and method.deliver_exits
    return len(catalog.find(ready.spec.student.architecture).stages) - 1 if delivered else 0


def _comparisons(ready: Ready) -> tuple[int, ...]:
    """The batch size of each."""
    asked = ready.spec.latency
    if asked is None:
        return ()
    pairs = 1 if ready.spec.teachers else _exits(ready)
    return asked.comparisons * pairs


def _comparing(ready: Ready, bursts: Bursts, *, end: int) -> float:
    """Seconds of the latency protocol at the low (0) or high (1) end."""
    asked = ready.spec.latency
    if asked is None:
        return 0.0
    slowest = max([*(each.image_seconds for each in bursts.trainings), *bursts.given])
    # The protocol may use fewer threads than those that the networks were timed with.
    slower = max(1.0, torch.get_num_threads() / asked.threads) * 2 if end else 1.0
    total = 0.0
    for batch_size in _comparisons(ready):
        one_round = max(ROUNDS_SECONDS[end], 2 * CALLS[end] * batch_size * slowest * slower)
        total += COMPARING_SECONDS[end] + min(asked.rounds * one_round, OVERTIME * asked.seconds)
    total += COMPILING_SECONDS[end] * ("compiled" in asked.runtimes) * len(asked.batch_sizes)
    pairs = asked.scenario_pairs * (1 if ready.spec.teachers else _exits(ready))
    total += pairs * (COMPARING_SECONDS[end] + SCENARIO_SHARE[end] * asked.seconds)
    return total


def _memory(ready: Ready, bursts: Bursts) -> Interval:
    """Of the graphics card where there is one, else of the process. The bursts have seen most of it already."""
    if ready.device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(ready.device)
        return Interval(low=torch.cuda.max_memory_allocated(ready.device), high=MEMORY_GROWTH * reserved)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    besides = EXPORT_BYTES if "onnx" in ready.spec.export or ready.spec.latency else EXPORT_BYTES / 2
    return Interval(low=peak, high=MEMORY_GROWTH * peak + bursts.finished_bytes + besides)


def _disk(ready: Ready, bursts: Bursts) -> Interval:
    """What is delivered, and the checkpoints that are kept: one at the least, and one more while it is written."""
    student = _weights_of_student(ready)
    delivered = student * len(ready.spec.export)
    others = sum(each.pace.weights_bytes for each in bursts.trainings) + _exits(ready) * student * 2
    others += sum(_bytes(each) for each in ready.teachers if each is not None)
    checkpoint = max(each.pace.state_bytes for each in bursts.trainings)
    kept = (ready.spec.training.keep + 1) * (checkpoint + bursts.finished_bytes)
    least, most = SMALL_FILES_BYTES[0], SMALL_FILES_BYTES[1] * (1 + len(_comparisons(ready)))
    return Interval(low=delivered + checkpoint + least, high=CHECKPOINT_MARGIN * (delivered + others + kept) + most)


def _weights_of_student(ready: Ready) -> int:
    # Not on the meta device, whose random numbers load the whole of torch.compile.
    return _bytes(fresh(ready, ready.spec.student.architecture))


def _bytes(network: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in network.state_dict().values())


def _warnings(ready: Ready, estimate: Estimate, *, free: int) -> Iterator[str]:
    limit, seconds = ready.spec.resources.max_seconds, estimate.seconds
    if limit is not None and seconds is not None and seconds.high > limit:
        surely = "will" if seconds.low > limit else "may"
        yield (
            f"The job is allowed {limit:g} s (resources.max_seconds) and {surely} take longer: {seconds.low:.0f} to "
            f"{seconds.high:.0f} s by a burst on this worker. When the limit ends it, a retry with a larger one goes "
            f"on from its last checkpoint."
        )
    left = _memory_left(ready)
    if left is not None and estimate.memory_bytes.high > left:
        yield (
            f"Memory may run out: the job may take {_megabytes(estimate.memory_bytes.high)}, and "
            f"{_megabytes(left)} are there for it. It would then go on with batches in parts; a smaller "
            f"'training.batch_size' avoids that."
        )
    if estimate.artifact_bytes.high > free:
        yield (
            f"Space may run out: checkpoints and artifacts may take {_megabytes(estimate.artifact_bytes.high)}, and "
            f"{_megabytes(free)} are free. Keep fewer checkpoints (training.keep), or free some."
        )


def _memory_left(ready: Ready) -> int | None:
    """What there would be if this process gave back all that it has."""
    if ready.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(ready.device)
        return free + torch.cuda.memory_reserved(ready.device)
    left = available_bytes()
    return None if left is None else left + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
