"""The job spec: everything a user asks for, and nothing the service decides."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from distillery.errors import InvalidSpec
from distillery.spec.consistency import faults
from distillery.spec.dataset import DatasetSpec
from distillery.spec.frozen import Frozen
from distillery.spec.latency import LatencySpec
from distillery.spec.methods import DataFreeMethod, Method, OfflineMethod
from distillery.spec.problems import field_problems
from distillery.spec.student import StudentSpec
from distillery.spec.teacher import AssistantSpec, Teacher, TeacherEnsemble, TeacherSpec
from distillery.spec.training import TeacherTraining, Training

ExportFormat = Literal["safetensors", "onnx", "onnx-int8", "torch-export"]
Short = Annotated[str, Field(max_length=100)]
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=255)]
QueueName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


MOST_LABELS = 64
FEWEST_VIEWS, EPOCHS_PER_VIEW = 8, 4
"""Of an image, where the number of views is left to us: docs/measured/views.md tells what that costs in accuracy."""
Name = Annotated[str, Field(min_length=1, max_length=200)]
Priority = Annotated[int, Field(ge=0, le=100)]
MaxSeconds = Annotated[float, Field(ge=1, le=31_536_000)]


class Resources(Frozen):
    """Which workers may take the job, and when."""

    queue: QueueName = "default"
    priority: Priority = 50
    """Higher is claimed first; equal ones in the order of submission."""
    max_seconds: MaxSeconds | None = None
    """Running time of all attempts together after which the job saves, stops and fails; None sets no limit."""


class Notify(Frozen):
    """Whom to tell of this job: an endpoint registered with `POST /v1/webhooks`."""

    url: Annotated[str, Field(min_length=1, max_length=2048)]


class Provenance(Frozen):
    """What a resolved spec was resolved against. A job that is given these refuses to run on other bytes."""

    data_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    teacher_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Hash of the teacher's weights, when they were not trained in the job; of several, the hash of their hashes."""
    versions: dict[str, Annotated[str, Field(max_length=100)]] = Field(default_factory=dict, max_length=50)
    """Package versions; told for the record and not enforced."""


class JobSpec(Frozen):
    """One distillation: data, teacher, student, method, recipe, and what to measure and deliver."""

    name: Name = "distillation"
    task: Literal["image-classification"] = "image-classification"
    dataset: DatasetSpec
    teacher: Teacher | None = None
    """None only for self-distillation, where the student teaches itself."""
    assistants: Annotated[tuple[AssistantSpec, ...], Field(max_length=8)] = ()
    """Networks between teacher and student, the largest first: each is distilled from the one before it (TAKD)."""
    student: StudentSpec
    method: Method = OfflineMethod()
    training: Training = Training()
    baseline: bool = True
    """Train the same student, with the same recipe and seed, without the teacher: the only fair comparison.
    A data-free job has no labels to train it on, and leaves it out."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    """Runs of student and baseline with seeds that follow each other; more than one tells the spread. The first run's
    student is the one delivered. Teachers and assistants are trained once."""
    export: Annotated[tuple[ExportFormat, ...], Field(min_length=1, max_length=8)] = ("safetensors", "onnx")
    """`onnx-int8` has weights and activations of eight bits, calibrated on training images; `torch-export` is a program
    (.pt2) that PyTorch runs without the code of the network. Each file is loaded again and held against the student."""
    latency: LatencySpec | None = LatencySpec()
    """What to time at the end of the job; null times nothing."""
    resources: Resources = Resources()
    notify: Annotated[tuple[Notify, ...], Field(max_length=10)] = ()
    """Registered webhook endpoints that are told what becomes of this job."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MOST_LABELS)
    """Free key-value pairs to find jobs by."""
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _consistent(self) -> "JobSpec":
        if found := list(faults(self)):
            raise ValidationError.from_exception_data("JobSpec", found)
        return self

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """All of them, in order; none for self-distillation."""
        if self.teacher is None:
            return ()
        return self.teacher.members if isinstance(self.teacher, TeacherEnsemble) else (self.teacher,)

    @property
    def teacher_pointers(self) -> tuple[str, ...]:
        """Of each of `teachers`, the JSON pointer to it in this spec."""
        if isinstance(self.teacher, TeacherEnsemble):
            return tuple(f"/teacher/members/{place}" for place in range(len(self.teacher.members)))
        return () if self.teacher is None else ("/teacher",)


def parse(sent: Any) -> JobSpec:
    """Validate a raw spec.

    Raises:
        InvalidSpec: with one problem, pointer and hint for each bad field.
    """
    try:
        return JobSpec.model_validate(sent)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, sent)) from None


def resolve(spec: JobSpec) -> JobSpec:
    """Fill in everything that can be known without the data and the device; a fixed point of itself.

    The worker later adds precision, device and provenance. Submitting the result again repeats the job.
    """
    training = spec.training
    if training.seed is None:
        training = training.model_copy(update={"seed": secrets.randbelow(2**32)})
    method: Any = spec.method
    if isinstance(method, OfflineMethod):
        method = method.model_copy(update={"preset": None, "objective": method.terms})
    assistants = tuple(
        each.model_copy(update={"train": _complete(each.train or TeacherTraining(epochs=training.epochs), training)})
        for each in spec.assistants
    )
    dataset = spec.dataset.model_copy(update={"views": _views(spec)})
    teacher = _with_recipes(spec.teacher, training)
    changed = {"dataset": dataset, "training": training, "method": method, "teacher": teacher}
    baseline = spec.baseline and not isinstance(method, DataFreeMethod)
    return spec.model_copy(update={**changed, "assistants": assistants, "baseline": baseline})


def _views(spec: JobSpec) -> int | Literal["all"]:
    """As asked for, or few enough that they come again: the answers to them are then read and not computed."""
    asked = spec.dataset.views
    if asked != "auto":
        return asked
    if not isinstance(spec.method, OfflineMethod) or spec.training.teacher_answers == "live":
        return "all"
    return max(FEWEST_VIEWS, -(-spec.training.epochs // EPOCHS_PER_VIEW))


def _with_recipes(teacher: TeacherSpec | TeacherEnsemble | None, shared: Training) -> Any:
    if isinstance(teacher, TeacherEnsemble):
        members = tuple(_with_recipes(member, shared) for member in teacher.members)
        return teacher.model_copy(update={"members": members})
    if teacher is None or teacher.train is None:
        return teacher
    return teacher.model_copy(update={"train": _complete(teacher.train, shared)})


def _complete(own: TeacherTraining, shared: Training) -> TeacherTraining:
    missing = {
        name: getattr(shared, name)
        for name in ("batch_size", "optimizer", "schedule", "clip_grad_norm")
        if getattr(own, name) is None
    }
    return own.model_copy(update=missing)
