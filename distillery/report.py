"""The distillation report and the latency report: plain data, written by the engine, read by everyone."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["faster", "slower", "equivalent", "inconclusive", "invalid"]
Input = Literal["model", "end_to_end"]
"""Whether the network alone was timed, or everything from the encoded bytes of an image on."""
NoiseKind = Literal["spread", "drift", "shared_processor", "shared_gpu", "throttled", "unsteady_warmup", "wide_control"]


class Record(BaseModel):
    """Frozen and closed plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Estimated(Record):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Percentile(Record):
    """A percentile, or the reason why there are too few calls to state it."""

    seconds: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Noise(Record):
    """A sign that the machine was not quiet while something was measured."""

    kind: NoiseKind
    detail: str


class Stages(Record):
    """Where the time of one call from encoded bytes on goes: median seconds of each stage."""

    decode_seconds: float
    """From the bytes of PNG files to pixels."""
    prepare_seconds: float
    """Cutting, resizing, normalising."""
    compute_seconds: float
    """The runtime, with the way of the images to the device and of the answers back."""


class LatencyRow(Record):
    """One model in one runtime, batch size and device. Times in seconds for one call."""

    model: str
    """`teacher` or `student`; in a benchmark of any models, the name of one."""
    runtime: str
    device: str
    batch_size: int
    input: Input = "model"
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    threads: int
    n: int
    """Timed calls."""
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    mean_seconds: float
    stdev_seconds: float
    spread: float = 0.0
    """Interquartile range of the calls over their median."""
    images_per_second: float
    parameters: int | None
    macs: int | None
    """Multiply-adds of one image; None of a black box, whose operations nobody counts."""
    file_bytes: int
    peak_memory_bytes: int | None
    cold_start_seconds: float
    """The first call, before any warm-up."""
    warmup_calls: int
    warmup_steady: bool
    """Whether three blocks in a row agreed within 2 % before the bound on warm-up was met."""
    accuracy: float
    """Top-1 of this very runtime on the test images used."""
    agreement: float
    """Share of those images on which the runtime gives the class that the eager network gives."""
    accuracy_lost: float = 0.0
    """Top-1 of the eager network less that of this runtime, on the same images; 0.01 is one point."""
    degraded: bool = False
    """Whether more accuracy was lost than `max_accuracy_drop` allows."""
    quality_images: int = 0
    """How many test images accuracy and agreement are of."""
    stages: Stages | None = None
    """Of a call from encoded bytes on."""


class Placed(Record):
    """Something that was measured in one runtime, on one device, at one batch size."""

    runtime: str
    device: str
    batch_size: int
    input: Input = "model"

    @property
    def place(self) -> str:
        """Where, in words."""
        place = f"{self.runtime}, batch {self.batch_size}, {self.device}"
        return place if self.input == "model" else f"{place}, from encoded bytes"


class LatencyComparison(Placed):
    """Student against teacher in one runtime, batch size and device."""

    threads: int
    rounds: int
    loads: int = 1
    """How often everything was loaded, as where a network lies in memory has a say in its speed."""
    speedup: Estimated
    """Teacher time over student time: geometric mean over rounds of block medians.

    The 95 % bootstrap interval draws from the loads where there are six, and from the rounds otherwise."""
    control: Estimated
    """The student against itself, measured in the same rounds."""
    verdict: Verdict
    noise: tuple[Noise, ...] = ()
    notes: tuple[str, ...] = ()
    rows: tuple[LatencyRow, LatencyRow]
    """Teacher, then student; in a benchmark of any models, the reference, then another one."""


class LatencyFailure(Placed):
    """A measurement that was asked for and broke off; the others stand."""

    scenario: Literal["single_stream", "batch_sweep", "server"] = "single_stream"
    detail: str
    hint: str = ""
    model: str = ""
    """In a benchmark of several models, the one that was held against the reference."""


class SweepPoint(Record):
    """One batch size of a sweep."""

    batch_size: int
    p50_seconds: float
    """Of one call."""
    images_per_second: Estimated
    """Geometric mean over the rounds, 95 % bootstrap interval."""


class Sweep(Record):
    """One model at growing batch sizes, until it was no longer worth while, memory ran out or time was up."""

    model: str
    runtime: str
    device: str
    threads: int
    input: Input = "model"
    rounds: int
    """Each holds one block of every batch size in random order."""
    points: tuple[SweepPoint, ...]
    """By batch size; empty where not even one image fits."""
    best_batch_size: int | None
    """The smallest that cannot be told from the one of the highest throughput."""
    stopped_by: Literal["largest", "memory", "slower", "time"]
    stopped: str
    """Why no larger batch was tried."""
    notes: tuple[str, ...] = ()


class ServedRate(Record):
    """A server of single images under requests that arrive at random (Poisson) at one rate."""

    requests_per_second: float
    n: int
    """Requests answered."""
    cut_short: bool = False
    """The queue grew without end, so not every request was sent."""
    utilisation: float
    """Rate times mean service time: the share of time for which the server is busy; from 1 on it never keeps up."""
    p50: Percentile
    p95: Percentile
    p99: Percentile
    """Latency from the moment a request was due, waiting included."""
    met: bool
    """Whether p99 kept to the objective, with a server that keeps up."""


class ServerResult(Record):
    """The highest rate of single images at which one model keeps to an objective."""

    model: str
    runtime: str
    device: str
    threads: int
    input: Input = "model"
    objective_seconds: float
    """Of p99."""
    service_seconds: float
    """Mean of one call, alone and without waiting."""
    highest_rate: float | None
    """Requests per second; None where every rate tried missed the objective."""
    lowest_missed: float | None
    """The lowest rate above it that missed, in requests per second: the truth lies between the two."""
    rates: tuple[ServedRate, ...]
    """By rate, lowest first."""
    stages: Stages | None = None
    """Of a call from encoded bytes on."""
    notes: tuple[str, ...] = ()


class LatencyReport(Record):
    """The result of the latency protocol."""

    protocol: str
    comparisons: tuple[LatencyComparison, ...]
    sweeps: tuple[Sweep, ...] = ()
    servers: tuple[ServerResult, ...] = ()
    failures: tuple[LatencyFailure, ...] = ()
    environment: dict[str, Any]
    fingerprint: str = ""
    """Of the environment: figures of equal fingerprints may be held against each other."""
    weights_sha256: dict[str, str]
    """Of each model's file."""
    repeat_with: str
    """The command that repeats the measurement."""
    notes: tuple[str, ...] = ()
    """What holds for every comparison, and which ones asked for could not be made, with the reason."""


class Quality(Record):
    """How good one network is on the test split, which nothing else has read."""

    role: str
    """`teacher`, `student`, `baseline`; `teacher1` and so on for the members of an ensemble, `assistant1`, `exit1`."""
    architecture: str
    images: int
    top1: Estimated
    """Share answered right, with a Wilson 95 % interval."""
    top5: float | None
    """None below six classes."""
    ece: float
    """Expected calibration error, 15 bins of equal width."""
    loss: float
    """Cross-entropy with the labels, nats per image."""
    agreement: float | None = None
    """Share of images on which the network gives the teacher's answer; None for the teacher."""
    kl_to_teacher: float | None = None
    """KL divergence from the teacher's to this network's probabilities, nats per image."""
    per_class: dict[str, float]
    parameters: int | None
    """None of a table of answers."""
    macs: int | None
    """Multiply-adds of one image; None of a black box, whose operations nobody counts."""
    file_bytes: int
    train_seconds: float
    images_per_second: float | None
    """Training throughput; None when the network was not trained in the job."""
    best_epoch: int | None
    """The epoch with the best validation accuracy (counted from 1); its weights are the ones delivered."""
    best_validation: float | None
    last_validation: float | None
    last_top1: float | None = None
    """Test accuracy of the last epoch's weights, beside that of the best."""


class Disagreement(Record):
    """A test image on which student and teacher differ most."""

    image_id: int
    label: str
    teacher: str
    student: str
    kl: float
    thumbnail: str
    """A PNG as a data URL."""


class Curve(Record):
    """A series for the plots of the report."""

    key: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


class SeedRun(Record):
    """One run of the study: test accuracies of the best epochs."""

    seed: int
    student: float
    baseline: float | None


class Spread(Record):
    """Student and baseline over several training seeds, with teachers and assistants the same."""

    runs: tuple[SeedRun, ...]
    """The first is that of the student delivered."""
    student: Estimated
    """Mean test accuracy with its 95 % interval over seeds (Student's t)."""
    student_stdev: float
    baseline: Estimated | None
    baseline_stdev: float | None
    gain: Estimated | None
    """Mean difference of student and baseline of the same seed, likewise."""


class EarlyExit(Record):
    """A network that ends behind one stage of the student; its quality stands under its role in `quality`."""

    role: str
    stage: str
    """Module path of the stage."""
    latency: LatencyReport | None
    """The whole student, called `teacher` there, against this exit."""


class RunForms(Record):
    """In which forms the networks of one run computed."""

    run: str
    """Such as `training`."""
    teachers: tuple[str, ...]
    """By place, by the names of `training.teacher_form`; such as `eager` or `openvino-bf16`."""
    student: str
    """`eager` or `compiled`."""


class Report(Record):
    """The answer to both questions: how much faster, and did the teacher help."""

    summary: str
    """One sentence: whether distillation helped, and by how much."""
    helped: bool | None
    """None without a baseline, or when the difference lies within the uncertainty."""
    gain: Estimated | None
    """Student minus baseline, top-1, with a 95 % interval: over test images (paired), or over seeds where there are
    several."""
    gap_closed: float | None
    """(student - baseline) / (teacher - baseline); None when the teacher is not better than the baseline."""
    speedup: Estimated | None
    """Of the first runtime and batch size measured whose verdict is valid."""
    warnings: tuple[str, ...]
    quality: tuple[Quality, ...]
    seeds: Spread | None = None
    """With `seeds` above 1."""
    exits: tuple[EarlyExit, ...] = ()
    """Of a self-distilled student whose exits are delivered, shallow to deep."""
    synthetic: str = ""
    """Of a data-free job, a sheet of the images that the student learned from: a PNG as a data URL."""
    disagreements: tuple[Disagreement, ...]
    curves: tuple[Curve, ...]
    latency: LatencyReport | None
    forms: tuple[RunForms, ...] = ()
    """Of each network that was trained, in the order of their runs."""
    dataset: dict[str, Any]
    environment: dict[str, Any]
    spec: dict[str, Any]
    """The resolved spec, provenance included."""
