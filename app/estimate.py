"""What a job may take, from the catalogue alone: rough figures with honest intervals, since no device is known yet."""

import math
from dataclasses import dataclass

from distillery.spec import JobSpec
from distillery.spec.dataset import DigitsData, NamedData
from distillery.views import Estimate, Interval
from models import catalog

DIGITS_IMAGES, DIGITS_SIDE = 1797, 8
FASTEST, SLOWEST = 2e12, 5e9
"""Multiply-adds a second that one may get: a large accelerator in bf16, one busy core in fp32."""
FASTEST_STEP_SECONDS, SLOWEST_STEP_SECONDS = 0.002, 0.1
"""What a step costs besides its arithmetic."""
STARTING_SECONDS = (8.0, 60.0)
COMPARISON_SECONDS = (5.0, 45.0)
"""One runtime, batch size and device of the latency protocol."""
RUNTIME_BYTES = (300_000_000, 1_500_000_000)
"""The interpreter, PyTorch and its buffers."""
MACS_PER_ACTIVATION = (400.0, 15.0)
"""Multiply-adds for each number that the backward pass keeps: wide networks reuse more."""
_FLOAT_BYTES = 4
_FORWARD_BACKWARD = 3
"""A backward pass costs two forwards."""


@dataclass(frozen=True)
class Images:
    """Sizes of the splits."""

    train: int
    held_back: int


def known_images(spec: JobSpec) -> Images | None:
    """The sizes of the splits, where they are known without reading the data: for the digits of scikit-learn."""
    data = spec.dataset
    if not (isinstance(data, DigitsData) or (isinstance(data, NamedData) and data.name == "digits")):
        return None
    train = math.ceil(DIGITS_IMAGES * (1 - data.test) * (1 - data.validation))
    return Images(train=min(train, data.limit or train), held_back=DIGITS_IMAGES - train)


def estimate(spec: JobSpec) -> Estimate:
    """Seconds, memory and artifact bytes that the job may take, each as an interval."""
    notes = []
    images = known_images(spec)
    if images is None:
        notes.append("The time is not known: how many images there are, only the worker can see.")
    if spec.dataset.image_size is None and images is None:
        notes.append("The size of the images is not known; memory is told for the student's native input.")
    notes.append("Parameters and multiply-adds are those for ten classes.")
    return Estimate(
        seconds=_seconds(spec, images) if images else None,
        memory_bytes=_memory(spec),
        artifact_bytes=_artifacts(spec),
        notes=tuple(notes),
    )


def _macs(spec: JobSpec, name: str) -> float:
    """Multiply-adds of one image, scaled from the native input by area."""
    row = catalog.find(name)
    default = DIGITS_SIDE if known_images(spec) else row.input[1]
    side = spec.dataset.image_size or default
    return float(row.macs) * (side / row.input[1]) ** 2


def _seconds(spec: JobSpec, images: Images) -> Interval:
    teacher, student = (_macs(spec, name) for name in (spec.teacher.architecture, spec.student.architecture))
    epochs, own = spec.training.epochs, spec.teacher.train
    seen = epochs * images.train
    work = seen * (_FORWARD_BACKWARD * student + teacher)
    steps = epochs * math.ceil(images.train / spec.training.batch_size)
    if spec.baseline:
        work, steps = work + seen * _FORWARD_BACKWARD * student, 2 * steps
    if own is not None:
        work += own.epochs * images.train * _FORWARD_BACKWARD * teacher
        steps += own.epochs * math.ceil(images.train / (own.batch_size or spec.training.batch_size))
    work += (2 * epochs + 1) * images.held_back * (student + teacher)
    low = work / FASTEST + steps * FASTEST_STEP_SECONDS + STARTING_SECONDS[0]
    high = work / SLOWEST + steps * SLOWEST_STEP_SECONDS + STARTING_SECONDS[1]
    rows = _comparisons(spec)
    return Interval(low=low + rows * COMPARISON_SECONDS[0], high=high + rows * COMPARISON_SECONDS[1])


def _comparisons(spec: JobSpec) -> int:
    asked = spec.latency
    return len(asked.batch_sizes) * len(asked.runtimes) * len(asked.devices) if asked else 0


def _memory(spec: JobSpec) -> Interval:
    teacher, student = catalog.find(spec.teacher.architecture), catalog.find(spec.student.architecture)
    trained = max(student.parameters, teacher.parameters if spec.teacher.train else 0)
    # Weights, gradients and up to two moments of what is trained; the teacher's weights beside them.
    weights = _FLOAT_BYTES * (4 * trained + teacher.parameters + student.parameters)
    widest = student.name if spec.teacher.train is None else teacher.name
    numbers = spec.training.batch_size * _macs(spec, widest)
    low, high = (
        start + weights + _FLOAT_BYTES * numbers / ratio
        for start, ratio in zip(RUNTIME_BYTES, MACS_PER_ACTIVATION, strict=True)
    )
    return Interval(low=low, high=high)


def _artifacts(spec: JobSpec) -> Interval:
    teacher, student = catalog.find(spec.teacher.architecture), catalog.find(spec.student.architecture)
    low = _FLOAT_BYTES * student.parameters * len(spec.export)
    # A checkpoint holds weights, the best weights so far and up to two moments; early ones those of the teacher.
    state = 4 * _FLOAT_BYTES * (student.parameters + (teacher.parameters if spec.teacher.train else 0))
    own_teacher = _FLOAT_BYTES * teacher.parameters if spec.teacher.train else 0
    return Interval(low=low, high=low + own_teacher + spec.training.keep * state + 10_000_000)
