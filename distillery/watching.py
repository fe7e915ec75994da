"""Follow a job on the console: a bar for each phase, and a line for what a person should know."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from distillery import views
from distillery.client import Client
from distillery.errors import DistilleryError
from distillery.tables import seconds
from distillery.views import Event, Job

LOOK_SECONDS = 0.5
"""Between two looks at how far the job is; the trainer tells it about once a second."""
PLAIN_SECONDS = 10.0
"""Between two lines of progress where the console is a file."""
_TOLD = frozenset({
    "queued", "warning", "webhook_disabled", "pause_requested", "paused", "resumed", "cancel_requested", "requeued",
    "started", "failed", "crashed", "cancelled",
})  # fmt: skip


def watch(client: Client, job_id: str, *, console: Console) -> Job:
    """Show the job's events and progress until it has ended, also over pauses and restarts of the service; return it.

    Raises:
        Unavailable: the service was away for too long.
        KeyboardInterrupt: the user has seen enough; the job goes on.
    """
    show = Bars(console) if console.is_terminal else Lines(console)
    with show.live(), _progress_of(client, job_id, tell=show.progress):
        for event in client.stream(job_id):
            show.event(event)
            if event.type == "paused" and _is_paused(client, job_id):
                show.note(f"Waiting. Let it go on with: distillery resume {job_id}")
    job = client.wait(job_id)  # it has ended; unlike `job`, this bears with a service that is away
    show.end(job)
    return job


def _is_paused(client: Client, job_id: str) -> bool:
    """Whether it still is: the event may be an old one."""
    try:
        return client.job(job_id).status == "paused"
    except DistilleryError:
        return False


@contextmanager
def _progress_of(client: Client, job_id: str, *, tell: Callable[[views.Progress], None]) -> Iterator[None]:
    """Look at the job now and then, on a thread of its own, for as long as the block lasts."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                job = client.job(job_id)
            except DistilleryError:
                continue  # the event stream bears with the service, and decides when to give up
            if job.progress is not None and job.status == "running" and job.progress.phase == job.phase:
                tell(job.progress)

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Details(TextColumn):
    """How long the phase took, or has been running, and what is known of it: epoch, images/s, time left."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        took = task.fields["took"]
        running = task.fields["head_start"] + (task.elapsed or 0.0)
        told = f"  {task.fields['told']}" if took is None and task.fields["told"] else ""
        return Text(f"{seconds(running if took is None else took):>10}{told}")


@dataclass
class Bars:
    """For a terminal."""

    console: Console
    _tasks: dict[str, TaskID] = field(default_factory=dict)
    _current: str = ""
    _began: datetime = field(init=False)

    def __post_init__(self) -> None:
        columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description:<10}"), BarColumn(bar_width=24))
        self._bars = Progress(*columns, _Details(), console=self.console)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep drawing for as long as the block lasts."""
        with self._bars:
            yield

    def event(self, event: Event) -> None:
        """Move on to a phase, or print a line above the bars."""
        if event.type == "phase":
            self._leave(event.at, whole=True)
            self._enter(str(event.data.get("phase", event.message)), at=event.at)
        elif event.type in views.TERMINAL or event.type in ("requeued", "paused"):
            self._leave(event.at, whole=event.type == "succeeded")
        if _is_told(event):
            self._bars.console.print(_line(event), highlight=False)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, progress: views.Progress) -> None:
        """Move the bar of the running phase."""
        if progress.phase == self._current and progress.total_steps:
            self._bars.update(
                self._tasks[self._current], total=progress.total_steps, completed=progress.step, told=_told(progress)
            )

    def end(self, job: Job) -> None:
        """Nothing: the bars have said it."""

    def _enter(self, phase: str, *, at: datetime) -> None:
        self._current, self._began = phase, at
        head_start = max(0.0, (datetime.now(tz=UTC) - at).total_seconds())
        fresh: dict[str, Any] = {"told": "", "took": None, "head_start": head_start}
        if phase in self._tasks:  # a further attempt
            self._bars.reset(self._tasks[phase], total=None, **fresh)
            self._bars.tasks[self._tasks[phase]].stop_time = None  # which `reset` keeps, and time would run backwards
        else:
            self._tasks[phase] = self._bars.add_task(phase, total=None, **fresh)

    def _leave(self, at: datetime, *, whole: bool) -> None:
        if self._current:
            task = self._tasks[self._current]
            self._bars.update(task, took=(at - self._began).total_seconds())
            if whole:
                total = self._bars.tasks[task].total or 1
                self._bars.update(task, total=total, completed=total)
            self._bars.stop_task(task)
            self._current = ""


@dataclass
class Lines:
    """For a file or a pipe: plain lines, not too many."""

    console: Console
    clock: Callable[[], float] = time.monotonic
    _told_at: float = field(default=0.0, init=False)
    _current: str = field(default="", init=False)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Nothing to keep up."""
        yield

    def event(self, event: Event) -> None:
        """A line for a phase and for what matters."""
        if event.type == "phase":
            self._told_at, self._current = self.clock(), str(event.data.get("phase", event.message))
            self._say(f"{self._current} ...")
        elif event.type in ("requeued", "paused"):
            self._current = ""  # what the job itself tells is old until a further attempt has entered a phase
        if _is_told(event):
            self._say(_line(event).plain)

    def note(self, text: str) -> None:
        """A line."""
        self._say(text)

    def progress(self, progress: views.Progress) -> None:
        """A line now and then."""
        due = self.clock() - self._told_at >= PLAIN_SECONDS
        if progress.phase == self._current and progress.total_steps and due:
            self._told_at = self.clock()
            self._say(f"  {progress.phase}: {100 * progress.step / progress.total_steps:.0f} %, {_told(progress)}")

    def end(self, job: Job) -> None:
        """How it ended."""
        self._say(f"{job.status} after {seconds(job.usage.running_seconds)}")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _is_told(event: Event) -> bool:
    """Of forms, only where others than eager were tried: that a short run stays eager goes without saying."""
    return event.type in _TOLD or (event.type == "form" and bool(event.data.get("tried")))


def _told(progress: views.Progress) -> str:
    parts = [f"epoch {progress.epoch}/{progress.epochs}"] if progress.epochs else []
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.eta_seconds is not None:
        parts.append(f"{seconds(progress.eta_seconds)} left")
    return ", ".join(parts)


def _line(event: Event) -> Text:
    style = {"warning": "yellow", "failed": "red", "crashed": "red"}.get(event.type, "dim")
    return Text(f"warning: {event.message}" if event.type == "warning" else event.message, style=style)
