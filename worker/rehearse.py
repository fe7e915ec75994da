"""The trial of a job: data, teachers and shapes are checked, and a burst of each training is timed. Nothing is kept.

    python -m worker.rehearse job.yaml --out DIR

What was found is told as `Rehearsed`, or as `Failed`; the exit codes stand in `worker.messages`. SIGTERM: it leaves.
"""

import argparse
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from distillery.errors import DistilleryError
from distillery.job_files import read
from distillery.spec import JobSpec, parse, resolve
from distillery.views import Adjustments, JobError, Rehearsal
from worker.halts import halt_of
from worker.messages import EXIT_FAILED, EXIT_FINISHED, EXIT_SAVED, Failed, Message, PhaseBegan, Rehearsed, job_error
from worker.options import parser
from worker.remedies import remedy
from worker.run import NICENESS, stop_on_signals
from worker.telling import Console, Pipe, Teller
from worker.waiting import wait_patiently


def main(arguments: list[str] | None = None) -> int:
    """Try out one job."""
    options = parser("worker.rehearse", description="Try out one distillation job for a few seconds.").parse_args(
        arguments
    )
    stop = stop_on_signals()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    teller: Teller = Pipe(options.events_fd) if options.events_fd is not None else Console()
    try:
        return _run(options, teller=teller, stop_requested=stop.is_set)
    except DistilleryError as error:
        teller.tell(Failed(error=job_error(error)))
        return EXIT_FAILED


def _run(options: argparse.Namespace, *, teller: Teller, stop_requested: Callable[[], bool]) -> int:
    spec = resolve(parse(read(str(options.job))))
    options.out.mkdir(parents=True, exist_ok=True)
    wait_patiently()
    from engine.loop import Stopped

    try:
        found = _within_memory(spec, options, teller=_Phases(teller), stop_requested=stop_requested)
    except Stopped:
        return EXIT_SAVED
    if isinstance(found, JobError):
        teller.tell(Failed(error=found))
        return EXIT_FAILED
    teller.tell(Rehearsed(result=found))
    return EXIT_FINISHED


def _within_memory(
    spec: JobSpec, options: argparse.Namespace, *, teller: Teller, stop_requested: Callable[[], bool]
) -> Rehearsal | JobError:
    """Where memory runs out, batches go through the networks in parts, as they would in the job's next attempt."""
    adjusted = Adjustments()
    while True:
        try:
            found = _rehearsed(
                spec, options, teller=teller, stop_requested=stop_requested, parts=adjusted.micro_batches
            )
        except Exception as error:
            halted = halt_of(error)
            if halted is None or halted.reason != "out_of_memory":
                raise
            changed = remedy(halted, before=adjusted, batch_size=spec.training.batch_size)
            if isinstance(changed, JobError):
                return changed
            adjusted = changed
        else:
            return found if adjusted.micro_batches == 1 else _warned(found, parts=adjusted.micro_batches)


def _rehearsed(
    spec: JobSpec,
    options: argparse.Namespace,
    *,
    teller: Teller,
    stop_requested: Callable[[], bool],
    parts: int,
) -> Rehearsal:
    from engine.device_lease import DeviceLease, name_of
    from worker.estimate import estimated
    from worker.journal import Journal
    from worker.preparation import prepare

    journal = Journal(out=options.out, teller=teller, spec=spec, stop_requested=stop_requested)
    ready = prepare(
        spec,
        journal=journal,
        teacher_weights=dict(options.teacher_weights),
        teacher_facts=dict(options.teacher_facts),
        stored=options.dataset,
        unlabelled=options.unlabelled,
        micro_batches=parts,
    )
    with DeviceLease(name_of(ready.device), on_wait=journal.leave_when_asked).shared():
        estimate, warnings = estimated(ready, journal=journal)
    known: list[Any] = [each for each in ready.accuracies if each is not None]
    return Rehearsal(
        device=ready.device.type,
        precision=ready.precision,
        estimate=estimate,
        teacher_accuracy=min(known, default=None),
        warnings=tuple(dict.fromkeys((*journal.warnings, *warnings))),
    )


def _warned(found: Rehearsal, *, parts: int) -> Rehearsal:
    note = f"Memory ran out with whole batches; the job will put each through the networks in {parts} parts."
    return found.model_copy(update={"warnings": (note, *found.warnings)})


class _Phases:
    """Passes on how far the trial is; warnings stand in its result."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def tell(self, message: Message) -> None:
        """Pass on a phase."""
        if isinstance(message, PhaseBegan):
            self._teller.tell(message)


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main())
