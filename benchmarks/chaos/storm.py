"""One storm: jobs are submitted and worked off while the faults of the plan come down on whoever runs."""

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from benchmarks.chaos import plan as plans
from benchmarks.chaos.fleet import Fleet, Role, Victim
from benchmarks.chaos.plan import LEASE_SECONDS, Fault, Plan
from distillery import spec as specs
from distillery.errors import Unavailable, WrongState
from distillery.views import TERMINAL
from store import jobs, wishes
from store.artifacts import Artifacts
from store.db import Database
from store.tables import JobRow

_TICK_SECONDS = 0.05
_WAITING = 40
"""So many jobs are unfinished at any time. Of each of more, Redis would have to be told again every 1.5 s."""
_PATIENCE_SECONDS = 180.0
_AIMED = 0.9
"""Share of the kills that look for a process at work; the others take any, such as a worker that is starting."""
_ROLES: tuple[Role, ...] = ("worker", "pool process", "trainer")
_KILLED: tuple[int, ...] = (35, 15, 50)
_STOPPED: tuple[int, ...] = (35, 40, 25)


@dataclass(frozen=True)
class Servers:
    """The private servers of a storm; `crash` and `flush` are None where there is no Postgres or Redis."""

    database_url: str
    redis_url: str | None = None
    crash: Callable[[], None] | None = None
    flush: Callable[[], None] | None = None


@dataclass(frozen=True)
class Hit:
    """A kill -9 of a process that worked at a job."""

    role: Role
    job_id: str
    attempt: int
    at: float


@dataclass
class Record:
    """What was done in a storm."""

    accepted: dict[str, int] = field(default_factory=dict)
    """Steps of each job by its id, from the moment when its submission was committed."""
    done: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    hits: list[Hit] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    """Jobs that were asked to be; so also below."""
    paused: set[str] = field(default_factory=set)
    seconds: float = 0.0
    gave_up: bool = False
    """Nothing had ended for minutes."""


class Storm:
    """Does what the plan says, on workers that it keeps alive."""

    def __init__(self, plan: Plan, servers: Servers, *, folder: Path) -> None:
        self.plan, self.servers, self.folder = plan, servers, folder
        self.rng = random.Random(plan.seed)  # noqa: S311 - faults, not secrets
        self.database, self.artifacts = Database(servers.database_url), Artifacts(str(folder / "artifacts"))
        self.fleet = Fleet(self._environment(), folder, celery=plan.celery, embedded=plan.embedded)
        self.record = Record()
        self._faults = plans.faults(plan, self.rng)
        self._due: list[tuple[float, Fault]] = []
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._crashing: Future[None] | None = None
        self._resolved: dict[str, specs.JobSpec] = {}

    def _environment(self) -> dict[str, str]:
        given = {
            "DATABASE_URL": self.servers.database_url, "ARTIFACTS": str(self.folder / "artifacts"),
            "WORK_DIR": str(self.folder / "working"), "LEASE_SECONDS": str(LEASE_SECONDS),
            "HEARTBEAT_SECONDS": "0.3", "REAPER_SECONDS": "0.5", "SAVE_BUDGET_SECONDS": "10",
            "BACKOFF_SECONDS": "0.1", "MAX_STALLED_CRASHES": "1000",
        }  # fmt: skip
        if self.servers.redis_url:
            given["REDIS_URL"] = self.servers.redis_url
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTILLERY_")}
        return kept | {f"DISTILLERY_{name}": value for name, value in given.items()}

    def run(self, *, tell: Callable[[str], None]) -> Record:
        """Until every job has ended and every fault was done, or nothing more happens."""
        began = told = moved = time.monotonic()
        ended = 0
        with ThreadPoolExecutor(1) as crasher, self.fleet:
            while not self._over(counts := self._counts()):
                before, ended = ended, sum(counts[status] for status in TERMINAL)
                moved = time.monotonic() if ended > before else moved
                if time.monotonic() - moved > _PATIENCE_SECONDS:
                    self.record.gave_up = True
                    break
                self.fleet.tend()
                self._feed(counts, ended=ended)
                self._strike(ended, crasher)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    tell(f"{told - began:.0f} s: {ended} of {len(self.record.accepted)} ended; {self._faults_done()}")
                time.sleep(_TICK_SECONDS)
            self._settle()
        self.record.seconds = time.monotonic() - began
        return self.record

    def _faults_done(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.record.done.items())) or "no fault yet"

    def _counts(self) -> Counter[str]:
        """Jobs by status; empty while the database is away."""
        with contextlib.suppress(Unavailable), self.database.read() as session:
            rows = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            return Counter(dict(rows.all()))
        return Counter()

    def _over(self, counts: Counter[str]) -> bool:
        waiting = self._faults or self._due or self._later or self._crashing
        known = sum(counts.values()) >= max(len(self.record.accepted), self.plan.jobs)
        return not waiting and known and all(status in TERMINAL for status in counts)

    def _feed(self, counts: Counter[str], *, ended: int) -> None:
        """Keep some jobs waiting. When all were submitted and faults are left, more are needed to meet them."""
        accepted = self.record.accepted
        if not counts and accepted:
            return
        left = self.plan.jobs - len(accepted)
        if left <= 0 and (self._faults or self._due):
            left = self.plan.celery + self.plan.embedded - (len(accepted) - ended)
        for _ in range(min(left, _WAITING - (len(accepted) - ended))):
            sent = plans.job(self.rng)
            resolved = specs.resolve(sent)
            try:
                with self.database.transaction() as session:
                    job_id = jobs.submit(session, sent=sent, resolved=resolved).id
            except Unavailable:
                return  # not accepted: a user would be answered 503
            accepted[job_id] = int(sent.labels["steps"])

    def _strike(self, ended: int, crasher: ThreadPoolExecutor) -> None:
        """Do the faults that are due; one that finds nobody to meet comes again."""
        now = time.monotonic()
        while self._faults and ended >= self._faults[0].place * self.plan.jobs:
            fault = self._faults.pop(0)
            self._due.append((now + fault.wait_seconds, fault))
        for due in [each for each in self._due if each[0] <= now]:
            if self._do(due[1], crasher):
                self._due.remove(due)
                self.record.done[due[1].kind] += 1
        for later in [each for each in self._later if each[0] <= now]:
            self._later.remove(later)
            later[1]()
        if self._crashing is not None and self._crashing.done():
            self._crashing.result()
            self._crashing = None

    def _do(self, fault: Fault, crasher: ThreadPoolExecutor) -> bool:
        match fault.kind:
            case "kill":
                return self._kill()
            case "stop":
                return self._stop()
            case "flush" if self.servers.flush is not None:
                self.servers.flush()
            case "crash" if self.servers.crash is not None:
                if self._crashing is not None:
                    return False
                self._crashing = crasher.submit(self.servers.crash)
            case "cancel":
                return self._cancel()
            case "pause":
                return self._pause()
        return True

    def _victim(self, weights: tuple[int, ...]) -> Victim | None:
        role = self.rng.choices(_ROLES, weights)[0]
        aimed = self.rng.random() < _AIMED
        found = [each for each in self.fleet.victims() if each.role == role and (each.work or not aimed)]
        return self.rng.choice(found) if found else None

    def _kill(self) -> bool:
        victim = self._victim(_KILLED)
        if victim is None:
            return False
        try:
            victim.process.kill()
        except psutil.NoSuchProcess:
            return False
        self.record.done[f"kill {victim.role}"] += 1
        if victim.work is not None:
            self.record.hits.append(Hit(victim.role, *victim.work, at=time.time()))
        return True

    def _stop(self) -> bool:
        victim = self._victim(_STOPPED)
        if victim is None:
            return False
        try:
            victim.process.suspend()
        except psutil.NoSuchProcess:
            return False
        seconds = plans.stop_seconds(self.rng)
        self.record.done["stop longer than the lease"] += seconds > LEASE_SECONDS

        def go_on() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.process.resume()

        self._later.append((time.monotonic() + seconds, go_on))
        return True

    def _living(self) -> str | None:
        """A job that has not ended; None when there is none, or the database is away."""
        with contextlib.suppress(Unavailable), self.database.read() as session:
            found = session.scalars(select(JobRow.id).where(JobRow.status.in_(("queued", "running")))).all()
            return self.rng.choice(sorted(found)) if found else None
        return None

    def _ask(self, verb: Callable[..., Any], job_id: str) -> bool:
        """What a user asks of a job; False when it came too late, or nobody knows whether it arrived."""
        try:
            with self.database.transaction() as session:
                verb(session, job_id)
        except (Unavailable, WrongState):
            return False
        return True

    def _cancel(self) -> bool:
        job_id = self._living()
        if job_id is None:
            return False
        self.record.cancelled.add(job_id)
        return self._ask(wishes.cancel, job_id)

    def _pause(self) -> bool:
        job_id = self._living()
        if job_id is None:
            return False
        self.record.paused.add(job_id)

        def resume() -> None:
            try:
                with self.database.transaction() as session:
                    if session.get_one(JobRow, job_id).status in ("pausing", "paused"):
                        wishes.resume(session, job_id)
            except (Unavailable, WrongState):  # away, or on its way to be paused
                self._later.append((time.monotonic() + 0.5, resume))

        self._later.append((time.monotonic() + self.rng.uniform(0.2, 2), resume))
        return self._ask(wishes.pause, job_id)

    def _settle(self) -> None:
        """What was stopped goes on, and a crash is waited for, also when the storm was given up."""
        for _, act in list(self._later):
            act()
        if self._crashing is not None:
            self._crashing.result()
