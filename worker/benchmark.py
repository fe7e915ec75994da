"""The program of a benchmark: any models timed against each other, alone on the device.

    python -m worker.benchmark plan.json --out DIR

Writes benchmark.json, benchmark.csv, benchmark.html, benchmark_samples.parquet and reproduce.yaml into DIR and tells of
them, and in the end of the result; the exit codes stand in `worker.messages`. SIGTERM: it leaves, and nothing is kept.
"""

import argparse
import faulthandler
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distillery import benchmarks
from distillery.errors import DistilleryError
from distillery.report import LatencyReport
from distillery.views import PhaseName, Progress
from worker.benchmark_plan import Plan
from worker.halts import halt_of
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_HALTED,
    EXIT_SAVED,
    Benchmarked,
    Delivered,
    Failed,
    PhaseBegan,
    Progressed,
    Warned,
    job_error,
)
from worker.run import stop_on_signals
from worker.telling import Console, Pipe, Teller
from worker.waiting import wait_patiently

if TYPE_CHECKING:
    from engine.data.dataset import Dataset
    from engine.latency.several import Named

SAMPLES = "benchmark_samples.parquet"
PARQUET = "application/vnd.apache.parquet"
REPEAT_WITH = "distillery benchmark run reproduce.yaml"
_SECONDS_BETWEEN_WORDS = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Measure one benchmark."""
    options = _options(arguments)
    stop = stop_on_signals()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    teller: Teller = Pipe(options.events_fd) if options.events_fd is not None else Console()
    try:
        return _run(options, teller=teller, stop_requested=stop.is_set)
    except Exception as error:
        if halted := halt_of(error):
            teller.tell(halted)
            return EXIT_HALTED
        if not isinstance(error, DistilleryError):
            raise
        teller.tell(Failed(error=job_error(error)))
        return EXIT_FAILED


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.benchmark", description="Time any models.")
    parser.add_argument("plan", type=Path, help="the benchmark and the files of its models, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--dataset", type=Path, metavar="FILE", help="the packed file of a data set of kind 'stored'")
    parser.add_argument("--events-fd", type=int, help="file descriptor for messages to a supervisor")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, *, teller: Teller, stop_requested: Callable[[], bool]) -> int:
    plan = Plan.model_validate_json(options.plan.read_bytes())
    options.out.mkdir(parents=True, exist_ok=True)
    wait_patiently()
    from engine.latency.places import devices_alone
    from engine.loop import Stopped
    from worker.contestants import contestants

    word = _Word(teller, stop_requested)
    try:
        word.enter("preparing")
        models, dataset, notes = contestants(plan, stored=options.dataset)
        for note in notes:
            teller.tell(Warned(message=note))
        word.enter("measuring")
        with devices_alone(plan.spec.measure, on_wait=word.heard):
            report = _measured(plan, models, dataset, notes=notes, out=options.out, word=word)
    except Stopped:
        return EXIT_SAVED
    _deliver(plan, report, out=options.out, teller=teller)
    teller.tell(Benchmarked(result=report))
    return EXIT_FINISHED


def _measured(
    plan: Plan, models: "list[Named]", dataset: "Dataset", *, notes: tuple[str, ...], out: Path, word: "_Word"
) -> LatencyReport:
    from engine.latency.several import compare_several

    report = compare_several(
        models,
        reference=plan.spec.held_against,
        dataset=dataset,
        spec=plan.spec.measure,
        repeat_with=REPEAT_WITH,
        samples_file=out / SAMPLES,
        on_block=word.heard,
        on_pair=word.reached,
    )
    return report.model_copy(update={"notes": (*notes, *report.notes)})


def _deliver(plan: Plan, report: LatencyReport, *, out: Path, teller: Teller) -> None:
    import yaml

    from engine import benchmark_page
    from engine.checkpoint import sha256_of, written_whole

    page = benchmark_page.render(report, name=plan.spec.name, samples=out / SAMPLES)
    again = yaml.safe_dump(plan.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    files = {
        "benchmark.json": ("application/json", report.model_dump_json(indent=2)),
        "benchmark.csv": ("text/csv", benchmarks.as_csv(report)),
        "benchmark.html": ("text/html; charset=utf-8", page),
        "reproduce.yaml": ("application/yaml", again),
    }
    for name, (_, content) in files.items():
        with written_whole(out / name) as writer:
            writer.write(content.encode())
    for name, media_type in {**{name: kind for name, (kind, _) in files.items()}, SAMPLES: PARQUET}.items():
        path = out / name
        teller.tell(
            Delivered(
                name=name, path=str(path), media_type=media_type, sha256=sha256_of(path), size_bytes=path.stat().st_size
            )
        )


class _Word:
    """Tells how far the benchmark is, and hears when it is to leave."""

    def __init__(self, teller: Teller, stop_requested: Callable[[], bool]) -> None:
        self._teller, self._stop_requested = teller, stop_requested
        self._done, self._of = 0, 0
        self._told_at = 0.0

    def enter(self, phase: PhaseName) -> None:
        """Begin a phase. Raises `Stopped` when the program was asked to leave."""
        self._leave_when_asked()
        self._teller.tell(PhaseBegan(phase=phase))

    def reached(self, done: int, of: int) -> None:
        """Take note of how many pairs are measured."""
        self._done, self._of, self._told_at = done, of, 0.0
        self.heard()

    def heard(self) -> None:
        """Say about once a second that it goes on, so that nobody takes it for frozen. Raises `Stopped`."""
        self._leave_when_asked()
        now = time.monotonic()
        if now - self._told_at < _SECONDS_BETWEEN_WORDS:
            return
        self._told_at = now
        progress = Progress(phase="measuring", step=self._done, total_steps=self._of)
        self._teller.tell(Progressed(step=self._done, progress=progress))

    def _leave_when_asked(self) -> None:
        from engine.loop import Stopped

        if self._stop_requested():
            raise Stopped


if __name__ == "__main__":
    sys.exit(main())
