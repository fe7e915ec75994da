"""What the trainer tells its supervisor, one JSON object per line.

The trainer (`worker.run`) knows no database and the supervisor no torch: these messages are all that passes between
them. A file named in a message is complete, fsynced and renamed into place before the message is sent.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from distillery import views
from distillery.errors import DistilleryError
from distillery.forms import FormChoice
from distillery.report import LatencyReport
from distillery.spec import JobSpec
from distillery.views import DatasetFacts, Estimate, JobError, PhaseName, Progress, Rehearsal

EXIT_FINISHED = 0
EXIT_FAILED = 1
"""The spec, the data or the numbers are at fault, said in a `Failed` message: trying again would not help."""
EXIT_SAVED = 75
"""Asked to stop by SIGTERM: the last checkpoint is saved and told, another attempt may go on from it."""


EXIT_HALTED = 76
"""Said in a `Halted` message: another attempt, run differently or later, may well succeed."""


class Line(BaseModel):
    """Frozen and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Resolved(Line):
    """The spec as it will run: precision, device and provenance filled in."""

    kind: Literal["resolved"] = "resolved"
    spec: JobSpec


class PhaseBegan(Line):
    """The trainer entered a phase; the one before it is over."""

    kind: Literal["phase"] = "phase"
    phase: PhaseName


class Progressed(Line):
    """Sent about once a second. `step` counts the optimizer steps of the whole job; never goes back in an attempt."""

    kind: Literal["progress"] = "progress"
    step: int
    progress: Progress


class Measured(Line):
    """Values of metric series at a step of their own phase; keys such as `training/loss`."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None]


class Saved(Line):
    """A checkpoint file is complete."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    step: int
    phase: PhaseName
    sha256: str
    size_bytes: int


class Delivered(Line):
    """An artifact file is complete."""

    kind: Literal["artifact"] = "artifact"
    name: str
    path: str
    media_type: str
    sha256: str
    size_bytes: int


class Warned(Line):
    """Something the user should know, that does not stop the job."""

    kind: Literal["warning"] = "warning"
    message: str
    data: dict[str, Any] = {}


class Estimated(Line):
    """What the job will take, told by a burst that was timed here."""

    kind: Literal["estimated"] = "estimated"
    estimate: Estimate


class Answered(Line):
    """What became of the teachers' answers in a run that is over."""

    kind: Literal["answered"] = "answered"
    run: str
    asked: int = 0
    """Answers to images that the teachers computed; 0 in both where they answered live throughout."""
    recalled: int = 0
    """Answers that were read."""
    damaged: int = 0
    """Of those computed, how many were found damaged."""
    unkept: int = 0
    """Of those computed, how many found no room."""
    why_live: str = ""
    """Why nothing was kept."""

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.asked and not self.recalled:
            return f"In the run {self.run} the teacher answered live{f': {self.why_live}' if self.why_live else '.'}"
        lost = f"; {self.damaged:,} were found damaged and computed anew" if self.damaged else ""
        lost += f"; {self.unkept:,} found no room to be kept" if self.unkept else ""
        return (
            f"In the run {self.run} the teacher computed {self.asked:,} answers to images and {self.recalled:,} were "
            f"read{lost}."
        )


class FormChosen(Line):
    """In which form a network of a run computes from now on."""

    kind: Literal["form"] = "form"
    choice: FormChoice


class Ingested(Line):
    """A data set is read and packed; its file and previews were told as artifacts."""

    kind: Literal["ingested"] = "ingested"
    facts: DatasetFacts


class Inspected(Line):
    """A model that was brought along can be used; its file was told as an artifact."""

    kind: Literal["inspected"] = "inspected"
    facts: views.ModelFacts


class Rehearsed(Line):
    """A job was tried out and can run."""

    kind: Literal["rehearsed"] = "rehearsed"
    result: Rehearsal


class Benchmarked(Line):
    """A benchmark is measured; its files were told as artifacts."""

    kind: Literal["benchmarked"] = "benchmarked"
    result: LatencyReport


class ModelFacts(Line):
    """A network worth keeping; its weights are the artifact of the given name."""

    role: Literal["student", "teacher"]
    artifact: str
    architecture: str
    classes: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float
    sha256: str


class Finished(Line):
    """The job is done and every artifact told."""

    kind: Literal["finished"] = "finished"
    summary: str
    models: tuple[ModelFacts, ...] = ()


class Failed(Line):
    """The job cannot succeed as it was asked for."""

    kind: Literal["failed"] = "failed"
    error: JobError


class Halted(Line):
    """This attempt cannot go on, but the next may: with smaller batches, at half the rate, or once there is space."""

    kind: Literal["halted"] = "halted"
    reason: Literal["out_of_memory", "diverged", "disk_full"]
    detail: str
    run: str = ""
    """The run, such as `training`, in which it happened; of `diverged`, the one to go on at half the rate."""


Message = (
    Resolved | PhaseBegan | Progressed | Measured | Saved | Delivered | Warned | Estimated | FormChosen | Answered
    | Ingested | Inspected | Rehearsed | Benchmarked | Finished | Failed | Halted
)  # fmt: skip
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def parse(line: bytes | str) -> Message:
    """Read one line.

    Raises:
        pydantic.ValidationError: the line is not one of the messages above.
    """
    return _ADAPTER.validate_json(line)


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return message.model_dump_json().encode() + b"\n"


def job_error(error: DistilleryError) -> JobError:
    """What a job shows of an error that ended it."""
    return JobError(
        type=f"urn:distillery:error:{error.code.lower()}",
        title=error.title,
        detail=error.detail,
        code=error.code,
        pointer=error.pointer,
        hint=error.hint,
        retryable=error.retryable,
    )
