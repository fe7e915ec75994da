"""What the service answers with: the wire types of jobs, events, metrics, checkpoints and artifacts."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from distillery.report import Estimated, LatencyReport
from distillery.spec import BenchmarkSpec, JobSpec, LatencySpec
from distillery.spec.imports import DatasetImport, ModelImport
from distillery.spec.preprocessing import Preprocessing

Status = Literal["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "crashed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "crashed", "cancelled"})
PhaseName = Literal[
    "reading", "packing", "checking",
    "preparing", "teaching", "assisting", "training", "baseline", "evaluating", "exporting", "measuring",
]  # fmt: skip
"""The first three are of data sets and models that are brought along."""
PHASES: tuple[PhaseName, ...] = (
    "preparing", "teaching", "assisting", "training", "baseline", "evaluating", "exporting", "measuring",
)  # fmt: skip
EventType = Literal[
    "queued", "started", "phase", "resolved", "estimated", "form", "answers", "checkpoint", "artifact",
    "warning", "edited", "pause_requested", "paused", "resumed", "cancel_requested", "requeued", "webhook_disabled",
    "succeeded", "failed", "crashed", "cancelled",
]  # fmt: skip
T = TypeVar("T")


class View(BaseModel):
    """Frozen; what we write ourselves is closed, what a newer service adds is ignored by an older client."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Progress(View):
    """How far the current phase is."""

    phase: PhaseName
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    images_per_second: float | None = None
    eta_seconds: float | None = None
    """Seconds until the end of this phase."""


class Phase(View):
    """One phase of the latest attempt that entered it."""

    name: PhaseName
    started_at: datetime
    ended_at: datetime | None = None


class Attempt(View):
    """One claim of the job by one worker."""

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    """`succeeded`, `failed`, `cancelled`, `paused`, `preempted` (saved, released), `halted` (out of memory, diverged,
    disk full: goes on differently), `crashed`, `frozen` (killed by the watchdog) or `lost` (lease over)."""
    exit_code: int | None = None
    first_step: int | None = None
    last_step: int | None = None
    refused_writes: int = 0
    """Writes that came after the attempt had lost the job, and changed nothing."""


class Adjustments(View):
    """How later attempts run differently, because of what earlier ones met."""

    micro_batches: int = 1
    """Parts in which a batch goes through the networks, its gradients summed: 2, 4 or 8 after memory ran out."""
    rate_halved: tuple[str, ...] = ()
    """Runs, such as `training`, that diverged and went on from their last checkpoint at half the learning rate."""


class JobError(View):
    """Why a job failed or crashed, in the form of RFC 9457."""

    type: str
    title: str
    detail: str
    code: str
    pointer: str = ""
    hint: str = ""
    retryable: bool = False
    trace_id: str = ""


class Links(View):
    """Where the rest of a job lies."""

    self: str
    events: str
    metrics: str
    checkpoints: str
    artifacts: str
    report: str
    latency: str


class Interval(View):
    """A figure known only roughly."""

    low: float
    high: float


class Estimate(View):
    """What a job may take. Rough on purpose: the device is not known before a worker has it."""

    seconds: Interval | None
    """None when the size of the data set is not known to the API; the reason stands in `notes`."""
    memory_bytes: Interval
    artifact_bytes: Interval
    notes: tuple[str, ...] = ()


class Usage(View):
    """What a job has cost so far, in seconds."""

    queued_seconds: float = 0.0
    running_seconds: float = 0.0


FARTHEST_PLACE = 1000


class QueuePlace(View):
    """Where a queued job stands."""

    name: str
    position: Annotated[int, Field(ge=1, le=FARTHEST_PLACE)]
    """1 is next; 1000 is that place or any behind it."""


class Job(View):
    """A distillation job."""

    id: str
    name: str
    status: Status
    status_reason: str = ""
    spec: JobSpec
    """As it was sent, with defaults filled in by the schema."""
    resolved_spec: JobSpec
    """Every default and `auto` filled in; submitting it again repeats the job."""
    labels: dict[str, str] = {}
    priority: int = 50
    """As it is now: a PATCH may have changed what the spec says."""
    phase: PhaseName | None = None
    phases: tuple[Phase, ...] = ()
    progress: Progress | None = None
    queue: QueuePlace | None = None
    attempt: int = 0
    attempts: tuple[Attempt, ...] = ()
    worker: str | None = None
    metrics: dict[str, float] = {}
    """The latest value of each metric series."""
    checkpoint_id: str | None = None
    student_model_id: str | None = None
    """The delivered student, usable as `teacher.model` of a later job."""
    adjustments: Adjustments = Adjustments()
    retry_of: str | None = None
    """The job from whose last checkpoint this one goes on."""
    cloned_from: str | None = None
    estimate: Estimate | None = None
    """From a timed burst at the beginning of its first attempt."""
    error: JobError | None = None
    usage: Usage = Usage()
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    links: Links


class JobSummary(View):
    """A job as it stands in a list."""

    id: str
    name: str
    status: Status
    phase: PhaseName | None = None
    teacher: str
    student: str
    progress: Progress | None = None
    labels: dict[str, str] = {}
    created_at: datetime
    finished_at: datetime | None = None


class Event(View):
    """One thing that happened to a job. `seq` counts from 1 without gaps within the job."""

    seq: int
    type: EventType
    at: datetime
    attempt: int
    message: str
    data: dict[str, Any] = {}


class MetricPoint(View):
    """One value of one series."""

    step: int
    value: float | None
    """null where the number was not finite."""


class MetricSeries(View):
    """One series, such as `training/loss`, downsampled on the server."""

    key: str
    points: tuple[MetricPoint, ...]
    total_points: int


class Metrics(View):
    """The metric series of a job."""

    series: tuple[MetricSeries, ...]


class Checkpoint(View):
    """A resumable state of the training, committed by one attempt."""

    id: str
    attempt: int
    step: int
    phase: PhaseName
    size_bytes: int
    sha256: str
    created_at: datetime
    url: str


class Artifact(View):
    """A file that a job delivered."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    url: str


class BenchmarkedModel(View):
    """A network of a benchmark, as it was known when the benchmark was asked for."""

    name: str
    """How the result calls it."""
    role: Literal["student", "teacher", "baseline", "uploaded"]
    job_id: str | None
    """The job that made it; None where it was brought along."""
    model_id: str | None
    """Of a kept model."""
    architecture: str
    accuracy: float | None
    """Top-1 on the whole test split, where that was measured."""


class Benchmark(View):
    """A latency comparison, run by a worker: of the student and teacher of one job, or of any models."""

    id: str
    job_id: str | None
    """The job whose student is held against its teacher; None of a benchmark of any models."""
    name: str = ""
    status: Status
    labels: dict[str, str] = {}
    spec: LatencySpec
    """What to measure."""
    asked: BenchmarkSpec | None = None
    """A benchmark of any models as it was sent."""
    models: tuple[BenchmarkedModel, ...] = ()
    """Of a benchmark of any models: they, in its order."""
    progress: Progress | None = None
    result: LatencyReport | None = None
    error: JobError | None = None
    created_at: datetime
    finished_at: datetime | None = None


class BenchmarkSummary(View):
    """A benchmark as it stands in a list."""

    id: str
    job_id: str | None
    name: str
    status: Status
    labels: dict[str, str] = {}
    models: tuple[str, ...]
    """Their names."""
    fingerprint: str = ""
    """Of the environment, once it has succeeded: figures of equal fingerprints may be held against each other."""
    created_at: datetime
    finished_at: datetime | None = None


class Upload(View):
    """A file that is being sent in parts. It is used by its id once it is complete."""

    id: str
    name: str
    size_bytes: int
    sha256: str
    part_bytes: int
    parts: int
    """How many there are; they are numbered from 1."""
    missing: tuple[int, ...]
    """The parts that have not arrived, at most the first 1,000."""
    complete: bool
    created_at: datetime
    expires_at: datetime
    """When it is deleted, unless it is used again before."""


class Broken(View):
    """A member of a data set that could not be read."""

    member: str
    """Its name in the archive or folder, or the row of a table."""
    reason: str


class DatasetFacts(View):
    """What was found in the files of a data set."""

    task: Literal["image-classification", "text-classification"]
    format: str
    """That of the files: `image_folder`, `idx`, `npz`, `parquet`, `csv` or `jsonl`."""
    classes: tuple[str, ...]
    splits: dict[str, int]
    """How many samples each of `train`, `validation`, `test` and `unlabelled` has."""
    channels: int = 0
    height: int | None = None
    """Of the packed images in pixels, where all have one size; else None. Nothing of texts."""
    width: int | None = None
    notes: tuple[str, ...] = ()
    """What was decided on the way: how splits were drawn, what was scaled down."""
    broken: tuple[Broken, ...] = ()
    """The first 100."""
    broken_count: int = 0
    sha256: str
    """Of the packed form."""
    size_bytes: int
    """Of the packed form."""


class Dataset(View):
    """A data set that the service keeps, or is about to."""

    id: str
    name: str
    status: Status
    """`succeeded` once it can be used."""
    source: DatasetImport
    facts: DatasetFacts | None = None
    progress: Progress | None = None
    error: JobError | None = None
    created_at: datetime
    finished_at: datetime | None = None


class Measured(View):
    """The accuracy of a model on a split that it was not chosen by."""

    data: str
    """The id of a kept data set, or the name of another one."""
    data_sha256: str
    split: Literal["test"] = "test"
    images: int
    top1: Estimated


class ModelFacts(View):
    """What was found in the files of a model that was brought along."""

    format: Literal["safetensors", "onnx", "table"]
    architecture: str
    """A name of the catalogue; `onnx` or `table` of a black box."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    outputs: Literal["logits", "probabilities"] = "logits"
    batch: int | None = None
    """The one batch size that an ONNX graph takes; None where it takes any."""
    layers: tuple[str, ...] = ()
    """Further outputs of an ONNX graph, usable as hints."""
    samples: int | None = None
    """Of a table: how many it answers."""
    parameters: int | None = None
    measured: Measured | None = None
    notes: tuple[str, ...] = ()
    """What was mended or guessed on the way, such as a prefix of all tensor names that was dropped."""
    file: str
    """The name of the delivered file of weights: of safetensors in our own form, else as it came."""
    sha256: str
    size_bytes: int


class Model(View):
    """A network with its weights, kept by the service: distilled, trained in a job to teach, or brought along."""

    id: str
    name: str = ""
    status: Status = "succeeded"
    """`succeeded` once it can teach; of a model from a job always."""
    format: Literal["safetensors", "onnx", "table"] = "safetensors"
    architecture: str
    """Empty while it is not known."""
    role: Literal["student", "teacher", "uploaded"]
    job_id: str | None
    """The job that made it; None where it was brought along."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float | None
    """Top-1 on the test split of the job's data, or of the data that it was measured on last."""
    measured: tuple[Measured, ...] = ()
    facts: ModelFacts | None = None
    """Of a model that was brought along."""
    source: ModelImport | None = None
    sha256: str
    error: JobError | None = None
    created_at: datetime


class Rehearsal(View):
    """What a worker found when it tried a job out for a few seconds."""

    device: str
    precision: str
    estimate: Estimate
    """From a timed burst on this very worker."""
    teacher_accuracy: float | None = None
    """Top-1 of the given teacher on validation images."""
    warnings: tuple[str, ...] = ()


class Preflight(View):
    """A trial of a job on a worker."""

    id: str
    status: Status
    """`succeeded`: the job can run. `failed`: `error` says why not, where and how to mend it."""
    result: Rehearsal | None = None
    error: JobError | None = None


class Validation(View):
    """The answer to a dry run: what would be run, what to beware of, what it may take."""

    resolved_spec: JobSpec
    warnings: tuple[str, ...]
    estimate: Estimate
    preflight: Preflight | None = None
    """Where the request waited for a worker to try the job out."""


class Architecture(View):
    """A row of the catalogue of networks."""

    name: str
    family: str
    parameters: int
    """For ten classes, at the native input."""
    macs: int
    """Multiply-adds of one image at the native input."""
    input: Annotated[tuple[int, int, int], Field(description="Native input as channels, height, width.")]
    stages: tuple[str, ...]
    """Names of the layers after each stage, shallow to deep."""


class ObjectiveTerm(View):
    """A term of the objective catalogue."""

    name: str
    summary: str
    paper: str
    when_to_use: str
    defaults: dict[str, Any]
    json_schema: dict[str, Any]
    presets: dict[str, tuple[dict[str, Any], ...]] = {}
    """Of a strategy that takes them: each name, with the weighted terms that it stands for."""


class Page(View, Generic[T]):
    """One page of a list; pass `next_page_token` on to get the next."""

    data: tuple[T, ...]
    next_page_token: str | None = None


class FieldProblemView(View):
    """One field at fault."""

    pointer: str
    code: str
    detail: str
    hint: str = ""


class Problem(View):
    """RFC 9457: the body of every answer of 400 and above."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    errors: tuple[FieldProblemView, ...] = ()
    trace_id: str = ""


class Health(View):
    """Whether each part of the service answers."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
