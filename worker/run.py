"""The trainer: a spec in, a student and its report out. It needs no service, queue or database.

    python -m worker.run job.yaml --out DIR

Under a supervisor it is also given the attempt, a checkpoint to go on from, fetched teacher weights and a pipe for its
messages. SIGTERM or SIGINT: a checkpoint is saved and told, and the exit code is 75. Memory or space that ran out, and
a run that diverged for the first time, are told as `Halted`, and the exit code is 76: the next attempt is given smaller
parts of batches (`--micro-batches`), more space, or half the rate (`--halve-rate`). SIGUSR1: the stacks of all threads
go to stderr.
"""

import argparse
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from distillery.errors import DistilleryError
from distillery.job_files import read
from distillery.spec import parse, resolve
from worker.halts import halt_of
from worker.messages import EXIT_FAILED, EXIT_FINISHED, EXIT_HALTED, EXIT_SAVED, Failed, job_error
from worker.options import parser
from worker.telling import Console, Pipe, Teller
from worker.waiting import wait_patiently

MICRO_BATCHES = (1, 2, 4, 8)
NICENESS = 10
"""Whoever answers requests or renews leases goes first where cores are few; with one to spare, it costs nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run one job; the exit codes stand in `worker.messages`."""
    options = _options(arguments)
    stop = stop_on_signals()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    teller: Teller = Pipe(options.events_fd) if options.events_fd is not None else Console()
    try:
        return _run(options, teller=teller, stop=stop)
    except Exception as error:
        if halted := halt_of(error):
            if not isinstance(error.__cause__ or error, DistilleryError):
                traceback.print_exc()  # nobody foresaw where this could happen
            teller.tell(halted)
            return EXIT_HALTED
        if not isinstance(error, DistilleryError):
            raise
        teller.tell(Failed(error=job_error(error)))
        return EXIT_FAILED


def _run(options: argparse.Namespace, *, teller: Teller, stop: threading.Event) -> int:
    spec = resolve(parse(read(str(options.job))))
    options.out.mkdir(parents=True, exist_ok=True)
    wait_patiently()
    # torch takes seconds to import: a bad spec is refused, and signals are heard, before that.
    with unwatched():
        from engine.loop import Stopped
        from worker.journal import Journal
        from worker.study import distil

    journal = Journal(
        out=options.out,
        teller=teller,
        spec=spec,
        attempt=options.attempt,
        keep_files=spec.training.keep if options.events_fd is None else None,
        stop_requested=stop.is_set,
    )
    try:
        distil(
            spec,
            journal=journal,
            teacher_weights=dict(options.teacher_weights),
            teacher_facts=dict(options.teacher_facts),
            stored=options.dataset,
            unlabelled=options.unlabelled,
            resume=options.resume,
            halved=frozenset(options.halve_rate),
            micro_batches=options.micro_batches,
        )
    except Stopped:
        sys.stderr.write("Asked to stop: what was learned so far is saved.\n")
        return EXIT_SAVED
    return EXIT_FINISHED


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Without a look for garbage until the block ends: what is imported there stays, and is never looked through."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def _options(arguments: list[str] | None) -> argparse.Namespace:
    made = parser("worker.run", description="Run one distillation job.")
    made.add_argument("--resume", type=Path, help="a checkpoint file of this job to go on from")
    made.add_argument("--attempt", type=int, default=1, help="number of this attempt; stands in checkpoint paths")
    made.add_argument(
        "--halve-rate",
        action="append",
        default=[],
        metavar="RUN",
        help="train this run, such as 'training', at half its learning rate, because it diverged; may be repeated",
    )
    made.add_argument(
        "--micro-batches",
        type=int,
        choices=MICRO_BATCHES,
        default=1,
        help="parts in which a batch goes through the networks, because memory ran out; their gradients add up",
    )
    return made.parse_args(arguments)


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main())
