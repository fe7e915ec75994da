"""The study's memory: what is finished, what is told, which files are complete."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from distillery.errors import CorruptFile
from distillery.spec import JobSpec
from distillery.spec.training import Training
from distillery.views import PhaseName, Progress
from engine import checkpoint
from engine.loop import Stopped, Trained
from worker.messages import Delivered, Measured, PhaseBegan, Progressed, Saved, Warned
from worker.telling import Teller

_FORMAT = 2
Forms = dict[str, list[str]]
"""`teachers`, by place, and `student`: names under which a form is asked for again."""


@dataclass
class Journal:
    """Tells the supervisor, saves checkpoints and remembers the finished networks of one attempt.

    `keep_files` is how many checkpoint files stay in the folder; None leaves them to the supervisor, which deletes
    each once it is stored.
    """

    out: Path
    teller: Teller
    spec: JobSpec
    attempt: int = 1
    keep_files: int | None = None
    stop_requested: Callable[[], bool] = lambda: False
    phase: PhaseName = "preparing"
    finished: dict[str, Trained] = field(default_factory=dict)
    """The networks trained so far, by the name of their run."""
    forms: dict[str, Forms] = field(default_factory=dict)
    """How the networks of a run compute, by its name: a resumed run goes on in the forms that it began with."""
    warnings: list[str] = field(default_factory=list)
    _loop: dict[str, Any] | None = None
    _loop_run: str = ""
    _saves: int = 0

    def leave_when_asked(self) -> None:
        """Save and raise `Stopped` when the trainer was asked to leave."""
        if self.stop_requested():
            self.save(None)
            raise Stopped

    def enter(self, phase: PhaseName) -> None:
        """Begin a phase, or raise `Stopped` when the trainer was asked to leave."""
        self.leave_when_asked()
        self.phase = phase
        self.teller.tell(PhaseBegan(phase=phase))

    def warn(self, message: str, **data: Any) -> None:
        """Tell the user of something that does not stop the job; it also stands in the report."""
        if message not in self.warnings:  # an attempt before this one may have told it too
            self.warnings.append(message)
        self.teller.tell(Warned(message=message, data=data))

    def deliver(self, path: Path, *, media_type: str) -> None:
        """Tell of a complete file; its name in the service is its file name."""
        message = Delivered(
            name=path.name,
            path=str(path),
            media_type=media_type,
            sha256=checkpoint.sha256_of(path),
            size_bytes=path.stat().st_size,
        )
        self.teller.tell(message)

    def finish(self, run: str, trained: Trained) -> None:
        """Remember a trained network, in a checkpoint too: its training is never done again."""
        self.finished[run] = trained
        self.save(None)

    def loop_state(self, run: str) -> dict[str, Any] | None:
        """The state in which an earlier attempt left this run's loop; None to begin afresh."""
        return self._loop if run == self._loop_run else None

    def step(self, inside: int = 0) -> int:
        """Optimizer steps of the whole job, given those of the running loop."""
        return sum(trained.steps for trained in self.finished.values()) + inside

    def save(self, loop: dict[str, Any] | None, *, run: str = "", inside: int = 0) -> None:
        """Write a checkpoint of the whole study and tell of it; nothing when there is nothing to save yet.

        A run that an earlier attempt was in the middle of, and that has not been taken up yet, is saved as it was left.
        """
        if loop is None and self._loop is not None and self._loop_run not in self.finished:
            loop, run, inside = self._loop, self._loop_run, int(self._loop["step"])
        if loop is None and not self.finished:
            return
        step = self.step(inside)
        # Numbered, because the end of a phase and of its last epoch are two states of the same step.
        self._saves += 1
        path = self.out / "checkpoints" / f"a{self.attempt}" / f"{self._saves:04d}-step-{step}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "format": _FORMAT,
            "spec_sha256": identity(self.spec),
            "run": run,
            "finished": {name: _plain(trained) for name, trained in self.finished.items()},
            "loop": loop,
            "forms": dict(self.forms),
            "warnings": list(self.warnings),
        }
        sha256, size = checkpoint.save(state, path)
        self.teller.tell(Saved(path=str(path), step=step, phase=self.phase, sha256=sha256, size_bytes=size))
        self._prune()

    def restore(self, path: Path) -> None:
        """Take up the study where the checkpoint left it.

        Raises:
            CorruptFile: damaged, or made by another format or for another spec.
        """
        state = checkpoint.load(path, sha256=None)
        if state.get("format") != _FORMAT:
            raise CorruptFile(f"{path.name} is a checkpoint of format {state.get('format')}, not {_FORMAT}.")
        if state["spec_sha256"] != identity(self.spec):
            raise CorruptFile(f"{path.name} is a checkpoint of another job spec.")
        self.finished = {name: Trained(**plain) for name, plain in state["finished"].items()}
        self._loop, self._loop_run = state["loop"], state["run"]
        self.forms = dict(state.get("forms", {}))  # not in states that were saved before there were any
        earlier = state.get("warnings", [])
        self.warnings = [*earlier, *(each for each in self.warnings if each not in earlier)]

    def _prune(self) -> None:
        if self.keep_files is None:
            return
        files = sorted((self.out / "checkpoints").glob("a*/*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[: -self.keep_files]:
            file.unlink()


@dataclass
class PhaseObserver:
    """What the loop tells while it runs, passed on with the run's name before each series.

    Of a phase that trains several networks, `place` of `runs` says which this is, so that progress tells of them all.
    """

    journal: Journal
    run: str
    recipe: Training
    place: int = 0
    runs: int = 1
    _inside: int = 0

    def progress(
        self, *, step: int, total_steps: int, epoch: int, epochs: int, images_per_second: float | None
    ) -> None:
        """Pass on how far the phase is. Steps and epochs of all its runs; images/s."""
        self._inside = step
        steps_per_second = images_per_second / self.recipe.batch_size if images_per_second else None
        done, total = self.place * total_steps + step, self.runs * total_steps
        progress = Progress(
            phase=self.journal.phase,
            step=done,
            total_steps=total,
            epoch=self.place * epochs + epoch,
            epochs=self.runs * epochs,
            images_per_second=images_per_second,
            eta_seconds=(total - done) / steps_per_second if steps_per_second else None,
        )
        self.journal.teller.tell(Progressed(step=self.journal.step(step), progress=progress))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Pass on metric values under `run/key`."""
        self.journal.teller.tell(
            Measured(step=step, values={f"{self.run}/{key}": value for key, value in values.items()})
        )

    def warning(self, message: str) -> None:
        """Pass on what the user should know."""
        self.journal.warn(message, run=self.run)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Save the whole study with this loop state; after the last epoch, `Journal.finish` does that instead."""
        if state["epoch"] < self.recipe.epochs:
            self.journal.save(state, run=self.run, inside=int(state["step"]))

    def stop_requested(self) -> bool:
        """Whether the trainer was asked to save and leave."""
        return self.journal.stop_requested()


_INDECISIVE: Any = {
    "name": True,
    "labels": True,
    "resources": True,
    "notify": True,
    "provenance": True,
    "latency": True,
    "export": True,
    "training": {"device", "precision", "teacher_form", "compile", "threads", "keep", "checkpoint_every"},
}


def identity(spec: JobSpec) -> str:
    """Hash of what is learned: the spec without names, queue, device, exports and the like."""
    return hashlib.sha256(spec.model_dump_json(exclude=_INDECISIVE).encode()).hexdigest()


def _plain(trained: Trained) -> dict[str, Any]:
    return {each.name: getattr(trained, each.name) for each in fields(trained)}
