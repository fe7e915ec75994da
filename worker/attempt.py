"""One attempt at one job, from the claim to its end: the single code path of Celery workers and the embedded one."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from distillery.errors import CorruptFile, DistilleryError, Fenced, InvalidRequest, NotFound, StorageFull, Unavailable
from distillery.report import LatencyReport
from distillery.views import JobError
from store import leases
from store.artifacts import Artifacts
from store.claims import MOST_SECONDS, Kind
from store.config import LeaseConfig
from store.db import Database
from store.leases import Claim
from worker import remedies, workplace
from worker.good_ends import good_end, speedups
from worker.inputs import Inputs
from worker.lease import Lease, Silent
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_HALTED,
    EXIT_SAVED,
    Failed,
    Halted,
    job_error,
    parse,
)
from worker.process import Child, tail
from worker.recorder import Recorder
from worker.watchdog import Watchdog

T = TypeVar("T")
_LOOK_SECONDS = 0.1
_GATHER_SECONDS = 0.1
"""What is told within this time is recorded at once: fewer transactions, and others come to SQLite's one lock."""
_RETRY_SECONDS = 0.2
_STACKS_SECONDS = 2.0
"""For a frozen trainer to write where its threads stand, before it is killed."""
_PATIENCE_SECONDS = 300.0
"""With a store of artifacts that is away for longer than this, the attempt counts as crashed."""
_LATENCY_FILES = {"latency.json": "application/json", "latency_samples.parquet": "application/vnd.apache.parquet"}
_LATENCY_PAGE = "latency.html"
"""Left out where no pages can be made."""
_log = logging.getLogger(__name__)


class Stop(Protocol):
    """Tells whether the worker was asked to leave; a `threading.Event` does."""

    def is_set(self) -> bool:
        """Whether it was."""


@dataclass(frozen=True)
class Programs:
    """The commands that do the computing, to which the arguments for a claim are added."""

    trainer: Sequence[str] = (sys.executable, "-m", "worker.run")
    latency: Sequence[str] = (sys.executable, "-m", "engine.latency")
    ingest: Sequence[str] = (sys.executable, "-m", "worker.ingest")
    inspect: Sequence[str] = (sys.executable, "-m", "worker.inspect_model")
    rehearse: Sequence[str] = (sys.executable, "-m", "worker.rehearse")
    benchmark: Sequence[str] = (sys.executable, "-m", "worker.benchmark")

    def of(self, kind: Kind) -> Sequence[str]:
        """The program for this kind of work."""
        named: dict[Kind, Sequence[str]] = {
            "distillation": self.trainer, "latency": self.latency, "dataset": self.ingest, "model": self.inspect,
            "preflight": self.rehearse, "benchmark": self.benchmark,
        }  # fmt: skip
        return named[kind]


DEFAULT_PROGRAMS = Programs()


def run_one(
    database: Database,
    artifacts: Artifacts,
    *,
    worker: str,
    queues: Sequence[str],
    lease: LeaseConfig,
    stop: Stop,
    job_id: str | None = None,
    programs: Programs = DEFAULT_PROGRAMS,
    work_root: Path | None = None,
) -> bool:
    """Claim a job and see it through; whether there was one to claim.

    Call it from a thread that lives as long as the process: the trainer dies with the thread that started it.

    Args:
        worker: the name of this worker, shown in the job's attempts.
        queues: whose jobs it may take.
        stop: once set, the running job is saved and released and no other is claimed.
        job_id: take this one or none.
        work_root: where attempts keep their files; see `workplace.root`.

    Raises:
        Unavailable: the database is out of reach and nothing was claimed.
    """
    if stop.is_set():
        return False
    claimed_at = time.monotonic()
    with database.transaction() as session:
        claim = leases.claim(session, worker=worker, queues=queues, lease_seconds=lease.lease_seconds, job_id=job_id)
    if claim is None:
        return False
    _log.info("%s: attempt %d begins.", claim.id, claim.attempt)
    with Lease(database, claim, config=lease, claimed_at=claimed_at) as held:
        attempt = Attempt(database, artifacts, claim, held, config=lease, stop=stop, programs=programs)
        attempt.run(work_root or workplace.root())
    if attempt.refused or (held.refused and not attempt.ended):
        _count_the_refusal(database, claim)
    return True


def _count_the_refusal(database: Database, claim: Claim) -> None:
    try:
        with database.transaction() as session:
            leases.refused(session, claim)
    except DistilleryError as error:
        _log.warning("%s: the refusal of a late write could not be counted. %s", claim.id, error)


class Attempt:
    """Supervises the program of one claim and records how it ended."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        claim: Claim,
        lease: Lease,
        *,
        config: LeaseConfig,
        stop: Stop,
        programs: Programs = DEFAULT_PROGRAMS,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._claim = claim
        self._lease = lease
        self._config = config
        self._stop = stop
        self._programs = programs
        self._child: Child | None = None
        self._watchdog = Watchdog(stall_seconds=config.stall_seconds)
        self._frozen = ""
        """How it froze, once it has."""
        self.refused = False
        """Whether the store refused something that came too late."""
        self.ended = False
        """Whether the end of the attempt is recorded."""
        left = claim.seconds_left
        self._ends_at = math.inf if left is None else time.monotonic() + left

    def run(self, work_root: Path) -> None:
        """Never raises for what a job, a disk or a database can do: it is all recorded, or left to the reaper."""
        claim = self._claim
        recorder = Recorder(claim, self._database, self._artifacts, self._lease, self._patiently)
        try:
            with ExitStack() as held:
                self._work(held, work_root, recorder)
        except Fenced as error:
            _log.warning("%s: attempt %d writes nothing more. %s", claim.id, claim.attempt, error)
            self.refused = not isinstance(error, Silent)  # else we stopped of our own accord
        except (DistilleryError, OSError) as error:
            _log.warning("%s: attempt %d writes nothing more. %s", claim.id, claim.attempt, error)
        self.ended = recorder.ended

    def _work(self, held: ExitStack, work_root: Path, recorder: Recorder) -> None:
        claim = self._claim
        try:
            folder = held.enter_context(workplace.folder(work_root, claim_id=claim.id, attempt=claim.attempt))
            arguments = self._fetched(folder, recorder)
            if arguments is not None:
                self._conclude(self._compute(arguments, folder, recorder), folder, recorder)
        except Fenced:
            raise
        except Exception as error:  # whatever went wrong here must not hold the job until its lease is over
            _log.exception("%s: attempt %d cannot go on.", self._claim.id, self._claim.attempt)
            if remedies.no_space(error):
                self._halt(recorder, Halted(reason="disk_full", detail=_told(error)), exit_code=None)
            elif self._stop.is_set():
                recorder.end(lambda s: leases.release(s, self._claim), outcome="preempted")
            else:
                self._crash(recorder, exit_code=None, detail=f"The worker could not go on: {_told(error)}")

    def _fetched(self, folder: Path, recorder: Recorder) -> list[str] | None:
        """The arguments of the program, or None when the job cannot succeed and that is recorded."""
        try:
            return Inputs(self._claim, self._database, self._artifacts, folder, self._patiently).arguments()
        except (InvalidRequest, NotFound, CorruptFile) as error:
            reason = job_error(error)
            recorder.end(lambda s: leases.fail(s, self._claim, error=reason), outcome="failed")
            return None

    def _compute(self, arguments: Sequence[str], folder: Path, recorder: Recorder) -> int | None:
        """Run the program to its end; its exit code, or None when there was no time to begin."""
        if self._must_leave():
            return None
        claim = self._claim
        program = self._programs.of(claim.kind)
        tells = claim.kind != "latency"
        child = self._child = Child([*program, *arguments], folder=folder, log=_log_of(folder), tells=tells)
        try:
            with self._lease.guard(child.kill):
                while not child.ended:
                    self._attend()
                    messages = [parse(line) for line in child.read(timeout=_LOOK_SECONDS)]
                    self._watchdog.hear(messages)
                    self._watch(child)  # before the recording, which may wait for a store for longer than a step takes
                    recorder.record(messages)
                    time.sleep(0 if child.ended else _GATHER_SECONDS)
        except BaseException:
            child.kill()
            raise
        finally:
            exit_code = child.close()
        return exit_code

    def _watch(self, child: Child) -> None:
        """Have a frozen trainer write its stacks, and kill it."""
        if (silent := self._watchdog.frozen_for()) is None or child.ended or self._frozen:
            return
        limit = self._watchdog.limit_seconds
        self._frozen = f"The trainer froze: no word of it for {silent:.0f} s, where {limit:.0f} s are the most."
        _log.warning("%s: attempt %d is killed. %s", self._claim.id, self._claim.attempt, self._frozen)
        child.ask_for_stacks()
        child.exits(within=_STACKS_SECONDS)
        child.kill()

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._ends_at

    def _must_leave(self) -> bool:
        return self._stop.is_set() or self._lease.wish != "go on" or self._out_of_time()

    def _attend(self) -> None:
        """Look after the lease and the wishes to stop. Raises Fenced."""
        self._lease.check()
        if self._child is not None and self._must_leave():
            self._child.ask_to_stop(grace_seconds=self._config.save_budget_seconds)
        if self._child is not None and self._child.overdue:
            self._child.kill()

    def _patiently(self, action: Callable[[], T]) -> T:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self._attend()
            try:
                return action()
            except Unavailable as error:
                out_of_time = self._child.overdue if self._child else self._must_leave()
                if out_of_time or time.monotonic() > give_up:
                    raise
                _log.warning("%s: trying again. %s", self._claim.id, error)
                time.sleep(_RETRY_SECONDS)

    def _conclude(self, exit_code: int | None, folder: Path, recorder: Recorder) -> None:
        claim, log = self._claim, _log_of(folder)
        self._keep_log(log, recorder)
        if exit_code == EXIT_FINISHED and claim.kind == "latency":
            self._deliver_latency(folder / "out", recorder)
        elif exit_code == EXIT_FINISHED and (succeed := good_end(claim, recorder.verdict)):
            recorder.end(succeed, outcome="succeeded")
        elif self._lease.wish == "cancel":
            recorder.end(partial(leases.cancelled, claim=claim), outcome="cancelled")
        elif exit_code == EXIT_FAILED and (error := self._failure(recorder, log)):
            recorder.end(partial(leases.fail, claim=claim, error=error, exit_code=exit_code), outcome="failed")
        elif exit_code == EXIT_HALTED and isinstance(recorder.verdict, Halted):
            self._halt(recorder, recorder.verdict, exit_code=exit_code)
        elif self._lease.wish == "pause":
            recorder.end(partial(leases.paused, claim=claim), outcome="paused")
        elif self._out_of_time() and not self._frozen:
            over = remedies.out_of_time(claim)
            recorder.end(partial(leases.fail, claim=claim, error=over, exit_code=exit_code), outcome="failed")
        elif self._stop.is_set() or exit_code == EXIT_SAVED:
            recorder.end(partial(leases.release, claim=claim), outcome="preempted")
        elif claim.kind in MOST_SECONDS:
            died = remedies.died(claim, exit_code=exit_code, detail=tail(log))
            recorder.end(partial(leases.fail, claim=claim, error=died, exit_code=exit_code), outcome="failed")
        else:
            self._crash(recorder, exit_code=exit_code, detail=tail(log))
        _log.info("%s: attempt %d ended with exit code %s.", claim.id, claim.attempt, exit_code)

    def _failure(self, recorder: Recorder, log: Path) -> JobError | None:
        if isinstance(recorder.verdict, Failed):
            return recorder.verdict.error
        if self._claim.kind != "latency":
            return None  # a traceback: a crash, that another attempt may not meet
        return JobError(
            type="urn:distillery:error:latency_failed",
            title="The latency could not be measured",
            detail=tail(log) or "The measurement ended without a word.",
            code="LATENCY_FAILED",
        )

    def _deliver_latency(self, out: Path, recorder: Recorder) -> None:
        for name, media_type in _LATENCY_FILES.items():
            recorder.artifact(out / name, name=name, media_type=media_type)
        if (out / _LATENCY_PAGE).exists():
            recorder.artifact(out / _LATENCY_PAGE, name=_LATENCY_PAGE, media_type="text/html; charset=utf-8")
        report = LatencyReport.model_validate_json((out / "latency.json").read_bytes())
        succeed = partial(
            leases.succeed, claim=self._claim, summary=speedups(report), models=(), benchmark_result=report
        )
        recorder.end(succeed, outcome="succeeded")

    def _crash(self, recorder: Recorder, *, exit_code: int | None, detail: str) -> None:
        outcome: Literal["frozen", "crashed"] = "frozen" if self._frozen else "crashed"

        def crash(session: Any) -> None:
            # The exact step, so that a job which always dies at the same one is seen to get no further.
            self._lease.beat_in(session)
            told = f"{self._frozen}\n{detail}" if self._frozen else detail
            leases.crash(session, self._claim, exit_code=exit_code, detail=told, lease=self._config, outcome=outcome)

        recorder.end(crash, outcome=outcome)

    def _halt(self, recorder: Recorder, halted: Halted, *, exit_code: int | None) -> None:
        """Have the next attempt run differently, or later; or end the job when there is nothing left to try."""
        claim = self._claim
        batch_size = claim.spec.training.batch_size if claim.kind == "distillation" else 1
        after = remedies.remedy(halted, before=claim.adjustments, batch_size=batch_size)
        if isinstance(after, JobError):
            recorder.end(partial(leases.fail, claim=claim, error=after, exit_code=exit_code), outcome="failed")
            return
        adjusted, wait = after, self._config.space_wait_seconds if halted.reason == "disk_full" else 0.0
        halt = partial(
            leases.halt,
            claim=claim,
            reason=halted.reason,
            detail=remedies.told(halted, adjusted, wait_seconds=wait),
            adjustments=adjusted,
            wait_seconds=wait,
            exit_code=exit_code,
        )
        recorder.end(halt, outcome="halted")

    def _keep_log(self, log: Path, recorder: Recorder) -> None:
        if not log.exists():
            return
        try:
            recorder.artifact(log, name="trainer.log", media_type="text/plain; charset=utf-8")
        except StorageFull as error:
            _log.warning("%s: the log could not be stored. %s", self._claim.id, error)


def _log_of(folder: Path) -> Path:
    return folder / "trainer.log"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DistilleryError) else f"{type(error).__name__}: {error}"
