"""What either client does over several requests, told once: retries, waiting for a job, a latency measurement.

A flow is a generator. It yields a `Call` and is sent the response (or thrown httpx's transport error), or yields a
`Pause`. The synchronous and the asynchronous client each have one small loop that performs what a flow yields.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from distillery import answers, calls
from distillery.calls import Call
from distillery.errors import DistilleryError, JobEndedBadly, StillRunning, Unavailable
from distillery.spec import LatencySpec
from distillery.views import TERMINAL, Benchmark, Job

T = TypeVar("T")

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
HELD_SECONDS = 30
"""How long the service is asked to hold its answer while nothing happens."""
POLL_SECONDS = 0.5
"""The least time between two looks at the same thing."""
_PERHAPS_DONE = "It may have been done all the same: look before you ask again."


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


Flow = Generator[Call[Any] | Pause, Any, T]


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for what, in seconds."""

    connect: float = 5.0
    read: float = 30.0
    write: float = 30.0
    outage: float = 60.0
    """How long `wait`, `stream` and `download` bear with a service that is away, as while it restarts, and how long a
    new job, or a measurement, is asked for again after an answer was lost."""


@dataclass
class Patience:
    """How often, or how long, a thing is tried again; `reset` by every success."""

    tries: int | None = 3
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    _failures: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)

    def reset(self) -> None:
        """Something worked: forget the failures so far."""
        self._failures = 0

    def pause(self, failure: DistilleryError, *, retry_after: float | None = None) -> float:
        """Seconds until the next try, growing from try to try.

        Raises:
            DistilleryError: `failure` itself, when it is time to give up.
        """
        now = self.clock()
        self._since = now if self._failures == 0 else self._since
        self._failures += 1
        longest = LONGEST_PAUSE_SECONDS if retry_after is None else LONGEST_RETRY_AFTER_SECONDS
        pause = self._backoff() if retry_after is None else retry_after
        tired = self.tries is not None and self._failures > self.tries
        late = self.seconds is not None and now + pause - self._since > self.seconds
        if tired or late or pause > longest:
            raise failure
        return pause

    def _backoff(self) -> float:
        full: float = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
        return full * random.uniform(0.5, 1.0)  # noqa: S311  (spreads clients out; no secret)


def exchange(call: Call[T], *, server: str, patience: Patience, outage: Patience | None = None) -> Flow[T]:
    """Send a call, again where that is safe, and read its answer.

    `outage` takes the place of `patience` once the service has been reached: what it was asked for may be done, and
    only an answer can tell.

    Raises:
        Unavailable: nobody answers.
        ServiceRefused: the answer is a problem.
    """
    while True:
        try:
            response = yield call
        except httpx.TransportError as error:
            failure = answers.unreachable(error, server=server)
            never_arrived = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if not (call.repeatable or never_arrived):
                raise Unavailable(failure.detail, hint=_PERHAPS_DONE) from error
            patience = patience if never_arrived else outage or patience
            pause = patience.pause(failure)
        else:
            if response.status_code not in RETRIED_STATUSES or not call.repeatable:
                patience.reset()
                return call.read(response)
            patience = outage or patience
            pause = patience.pause(answers.refusal(response), retry_after=answers.retry_after(response))
        yield Pause(pause)


def wait_for_job(
    job_id: str, *, timeout_seconds: float | None, server: str, patience: Patience, check: bool
) -> Flow[Job]:
    """Wait until a job has ended; while it is paused, too.

    Raises:
        StillRunning: it has not, after `timeout_seconds`.
        JobEndedBadly: with `check`, when it did not succeed.
    """
    began = time.monotonic()
    while True:
        looked = time.monotonic()
        left = HELD_SECONDS if timeout_seconds is None else max(0.0, began + timeout_seconds - looked)
        held = int(min(HELD_SECONDS, left))
        job: Job = yield from exchange(calls.job(job_id, wait_seconds=held), server=server, patience=patience)
        if job.status in TERMINAL:
            return _checked(job) if check else job
        now = time.monotonic()
        if timeout_seconds is not None and now >= began + timeout_seconds:
            raise StillRunning(
                f"Job {job_id} is {job.status} after {timeout_seconds:g} s.",
                hint=_HINT_ON_PAUSED.format(job_id)
                if job.status == "paused"
                else f"It goes on. Wait again, or stop it with `distillery cancel {job_id}`.",
            )
        yield Pause(max(0.0, min(POLL_SECONDS - (now - looked), left)))


_HINT_ON_PAUSED = "It waits for you. Let it go on with `distillery resume {}`."


def _checked(job: Job) -> Job:
    if job.status == "succeeded":
        return job
    why = f": {job.error.detail}" if job.error else f" ({job.status_reason})" if job.status_reason else ""
    hint = job.error.hint if job.error else ""
    raise JobEndedBadly(f"Job {job.id} {_ENDED[job.status]}{why}", hint=hint)


_ENDED = {"failed": "failed", "crashed": "crashed", "cancelled": "was cancelled"}


def measure_latency(
    job_id: str, *, spec: LatencySpec | Mapping[str, Any] | None, wait: bool, server: str, patience: Patience
) -> Flow[Benchmark]:
    """Ask for a measurement and, with `wait`, return when it has ended.

    Raises:
        JobEndedBadly: the measurement did not succeed.
    """
    asked: Benchmark = yield from exchange(
        calls.measure_latency(job_id, spec=spec), server=server, patience=Patience(), outage=patience
    )
    latest = asked
    while wait and latest.status not in TERMINAL:
        yield Pause(POLL_SECONDS)
        latest = yield from exchange(calls.benchmark(asked.id), server=server, patience=patience)
    if wait and latest.status != "succeeded":
        why = f": {latest.error.detail}" if latest.error else "."
        raise JobEndedBadly(
            f"The measurement {latest.id} {_ENDED[latest.status]}{why}", hint=latest.error.hint if latest.error else ""
        )
    return latest
