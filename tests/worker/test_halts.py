"""A trainer that diverges or finds no memory or no space says so, leaves a good checkpoint, and goes on from it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from distillery.errors import InvalidRequest, InvalidSpec, StorageFull, TrainingDiverged
from distillery.report import Report
from distillery.spec import parse as parse_spec
from distillery.spec import resolve
from engine import checkpoint
from engine.loop import Stopped
from worker.halts import Halt, halt_of
from worker.journal import Journal
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_HALTED,
    Failed,
    Halted,
    Measured,
    Message,
    PhaseBegan,
    Saved,
    Warned,
    parse,
)
from worker.run import NICENESS
from worker.study import distil
from worker.telling import Console

TRAINER = (sys.executable, "-m", "worker.run")
SHORT_OF_MEMORY = (sys.executable, str(Path(__file__).with_name("short_of_memory.py")))
_PATIENCE_SECONDS = 240.0
JOB: dict[str, Any] = {
    "dataset": {"kind": "digits", "image_size": 8},
    "teacher": {
        "architecture": "resnet8", "minimum_accuracy": 0,
        "train": {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}},
    },
    "student": {"architecture": "resnet8"},
    "training": {
        "epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.02}, "seed": 0, "device": "cpu",
        "threads": 1, "precision": "fp32", "schedule": "constant",
    },
    "latency": None, "export": ["safetensors"], "baseline": False,
}  # fmt: skip
DIVERGING = JOB | {
    "student": {"architecture": "seed_student"},
    "training": JOB["training"] | {"batch_size": 16, "optimizer": {"name": "sgd", "lr": 10}},
}
"""Without batch normalisation, at the largest rate there is: at half of it, it diverges too."""


@dataclass
class Ended:
    """What a trainer told and how it ended."""

    exit_code: int
    messages: list[Message]
    log: str

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def halted(self) -> Halted:
        assert self.exit_code == EXIT_HALTED, self.log
        assert isinstance(self.messages[-1], Halted)
        return self.messages[-1]

    @property
    def checkpoint(self) -> Path:
        """The last one told, which must be whole, with finite weights in it."""
        saved = self.of(Saved)[-1]
        state = checkpoint.load(Path(saved.path), sha256=saved.sha256)
        tensors = list(tensors_in(state))
        assert tensors
        assert all(bool(each.isfinite().all()) for each in tensors if each.is_floating_point())
        return Path(saved.path)


def tensors_in(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for each in state.values() if isinstance(state, dict) else state:
            yield from tensors_in(each)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Ended]:
    """Runs the real trainer on a job to its end, as a supervisor would."""

    def run(
        job: dict[str, Any],
        *arguments: str,
        command: Sequence[str] = TRAINER,
        attempt: int = 1,
        hear: Callable[[Message, int], None] = lambda message, pid: None,
    ) -> Ended:
        folder = tmp_path / f"attempt{attempt}"
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps(job))
        reading, writing = os.pipe()
        given = [str(folder / "job.json"), "--out", str(folder / "out"), "--events-fd", str(writing), *arguments]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, *given], pass_fds=(writing,), stdout=log, stderr=log)
        os.close(writing)
        deadline = threading.Timer(_PATIENCE_SECONDS, process.kill)
        deadline.start()
        messages = []
        with os.fdopen(reading, "rb") as pipe:
            for line in pipe:
                messages.append(parse(line))
                hear(messages[-1], process.pid)
        exit_code = process.wait()
        deadline.cancel()
        return Ended(exit_code, messages, (folder / "log").read_text())

    return run


def test_a_run_that_diverges_is_halted_once_and_fails_at_half_the_rate_too(trainer):
    """Row 11: the loss is never finite; the checkpoint that is left is."""
    niceness = []
    first = trainer(DIVERGING, hear=lambda _, pid: niceness or niceness.append(psutil.Process(pid).nice()))
    assert niceness == [NICENESS + psutil.Process().nice()], "it leaves the processor to those who answer requests"
    assert (first.halted.reason, first.halted.run) == ("diverged", "training")
    assert "at a learning rate of 10." in first.halted.detail
    assert "Traceback" not in first.log
    second = trainer(DIVERGING, "--resume", str(first.checkpoint), "--halve-rate", "training", attempt=2)
    assert second.exit_code == EXIT_FAILED, second.log
    assert "teaching" not in [each.phase for each in second.of(PhaseBegan)], "the checkpoint was gone on from"
    error = second.messages[-1].error
    assert isinstance(second.messages[-1], Failed)
    assert (error.code, error.pointer) == ("DIVERGED", "/training/optimizer/lr")
    assert "at a learning rate of 5." in error.detail
    assert "at half the learning rate did not help" in error.detail
    assert "clip_grad_norm" in error.hint


class Told(list[Message]):
    """A teller that keeps what it is told."""

    def tell(self, message: Message) -> None:
        self.append(message)

    @property
    def saved(self) -> list[Saved]:
        return [message for message in self if isinstance(message, Saved)]


def test_at_half_the_rate_a_job_goes_on_to_its_end_and_the_report_says_so(tmp_path):
    """Row 11: it was not finite once."""
    job, first, second = resolve(parse_spec(JOB)), Told(), Told()

    def saved_in_training() -> bool:
        return any(message.phase == "training" for message in first.saved)

    journal = Journal(out=tmp_path / "first", teller=first, spec=job, stop_requested=saved_in_training)
    with pytest.raises(Stopped):
        distil(job, journal=journal, teacher_weights={}, resume=None)
    resume, halved = Path(first.saved[-1].path), frozenset({"training"})
    again = Journal(out=tmp_path / "second", teller=second, spec=job, attempt=2)
    (tmp_path / "second").mkdir()
    distil(job, journal=again, teacher_weights={}, resume=resume, halved=halved)
    values = [(key, value) for m in second if isinstance(m, Measured) for key, value in m.values.items()]
    assert {each for each in values if each[0].endswith("/lr")} == {("training/lr", 0.01)}
    report = Report.model_validate_json((tmp_path / "second" / "report.json").read_bytes())
    (told,) = [each for each in report.warnings if "half that rate" in each]
    assert told in [message.message for message in second if isinstance(message, Warned)]
    assert "The run training diverged" in told


def test_a_run_that_the_study_does_not_have_is_refused(trainer):
    refused = trainer(JOB, "--halve-rate", "trainig")
    assert refused.exit_code == EXIT_FAILED
    assert "no run 'trainig'" in refused.messages[-1].error.detail
    assert "teaching, training, baseline" in refused.messages[-1].error.hint


def test_a_batch_that_memory_does_not_hold_is_learned_from_in_parts(trainer):
    """Row 12: memory runs out.

    The teacher's batches fit. The stacks are asked for on the way, as of a trainer that seems frozen.
    """
    job = JOB | {"training": JOB["training"] | {"batch_size": 96}}
    short = (*SHORT_OF_MEMORY, "64-once-taught")
    first = trainer(job, command=short)
    assert (first.halted.reason, first.halted.run) == ("out_of_memory", "training")
    assert first.halted.detail == (
        "Memory ran out in the run training: Tried to allocate room for 96 images, of which 64 fit."
    )
    assert "Traceback" in first.log, "where it happened is for the log"

    def look(message: Message, pid: int) -> None:
        if isinstance(message, PhaseBegan) and message.phase == "training":
            os.kill(pid, signal.SIGUSR1)

    arguments = ("--resume", str(first.checkpoint), "--micro-batches", "2")
    second = trainer(job, *arguments, command=short, attempt=2, hear=look)
    assert second.exit_code == EXIT_FINISHED, second.log
    assert "Current thread" in second.log
    assert "most recent call first" in second.log
    (told,) = [each.message for each in second.of(Warned) if "in 2 parts" in each.message]
    assert "batch normalisation sees each part" in told


def test_a_lack_of_memory_is_met_before_a_teacher_is_trained_in_vain(trainer):
    """Row 12: the burst of each training, before the first of them begins, is of whole batches."""
    job = JOB | {"training": JOB["training"] | {"batch_size": 96}}
    first = trainer(job, command=(*SHORT_OF_MEMORY, "64"))
    assert (first.halted.reason, first.halted.run) == ("out_of_memory", "training")
    assert not first.of(Saved)
    assert [each.phase for each in first.of(PhaseBegan)] == ["preparing"]


def test_a_full_disk_halts_the_job_and_leaves_the_checkpoint_before_it(trainer):
    """Row 9: the trainer finds no space.

    A limit on the size of a file: the teacher's checkpoints fit, the larger student's do not.
    """
    limited = ("sh", "-c", 'ulimit -f 8192; exec "$@"', "sh", *TRAINER)  # 4 MiB
    student = {"student": {"architecture": "seed_student"}}
    full = trainer(JOB | student, command=limited)
    assert (full.halted.reason, full.halted.run) == ("disk_full", "training")
    assert "No space is left to write 0002-step-" in full.halted.detail
    assert full.checkpoint.name.startswith("0001-step-")
    left = [path.name for path in full.checkpoint.parents[2].rglob("*") if path.is_file()]
    assert left == [full.checkpoint.name], "and nothing half-written"


def raised(action: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def full_device() -> None:
    with Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")


MET: dict[str, tuple[Callable[[], Exception], str]] = {
    "the allocator of the CPU": (lambda: raised(lambda: torch.empty(2**60, dtype=torch.uint8)), "out_of_memory"),
    "Python": (lambda: raised(lambda: bytearray(2**62)), "out_of_memory"),
    "CUDA": (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out_of_memory"),
    "cuBLAS": (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory"),
    "a system call": (lambda: OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
    "a full device": (lambda: raised(full_device), "disk_full"),
    "a quota": (lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
    "a checkpoint": (lambda: StorageFull("No space is left to write a.ckpt.", hint="Free some."), "disk_full"),
}


@pytest.mark.parametrize("name", MET)
def test_what_ran_out_is_recognised(name):
    make, reason = MET[name]
    told = halt_of(make(), run="training")
    assert told is not None
    assert (told.reason, told.run) == (reason, "training")
    assert 0 < len(told.detail) < 700


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a must match"), OSError(errno.EACCES, "Permission denied"), ValueError("no"),
        InvalidSpec(()), InvalidRequest("bad"), TrainingDiverged("The loss was nan."),
    ],
)  # fmt: skip
def test_what_trying_again_would_not_mend_is_not_halted(error):
    assert halt_of(error) is None


def test_the_halt_of_a_run_keeps_its_name():
    told = Halted(reason="out_of_memory", run="teaching2", detail="Memory ran out.")
    assert halt_of(Halt(told)) == told


def test_a_person_is_told_how_to_go_on(tmp_path):
    log = (tmp_path / "log").open("w+")
    with log:
        console = Console(log)
        console.tell(Halted(reason="diverged", run="teaching1", detail="It diverged."))
        console.tell(Saved(path="a1/7.ckpt", step=7, phase="training", sha256="0", size_bytes=1))
        console.tell(Halted(reason="diverged", run="training", detail="It diverged."))
        console.tell(Halted(reason="out_of_memory", run="training", detail="Memory ran out."))
        log.seek(0)
        first, *later = [line.rstrip() for line in log if "Go on" in line]
    assert first.endswith("the --resume of this run, if it had one, --halve-rate teaching1.")
    assert later[0].endswith("with --resume a1/7.ckpt --halve-rate training.")
    assert later[1].endswith("with --resume a1/7.ckpt --micro-batches 2 (then 4 and 8).")
