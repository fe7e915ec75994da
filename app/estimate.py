"""What a job may take, from the catalogue alone: rough figures with honest intervals, since no device is known yet."""

import math
from dataclasses import dataclass

from distillery.spec import JobSpec
from distillery.spec.dataset import DigitsData, NamedData, TorchvisionData
from distillery.views import Estimate, Interval
from models import catalog

DIGITS_IMAGES, DIGITS_SIDE = 1797, 8
TORCHVISION_SIZES: dict[str, tuple[int, int, int]] = {
    "CIFAR10": (50_000, 10_000, 32),
    "CIFAR100": (50_000, 10_000, 32),
    "MNIST": (60_000, 10_000, 28),
    "FashionMNIST": (60_000, 10_000, 28),
    "KMNIST": (60_000, 10_000, 28),
    "SVHN": (73_257, 26_032, 32),
    "STL10": (5_000, 8_000, 96),
}
"""Training images, test images, and side in pixels."""
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
    """Sizes of the splits, and the side of the images in pixels before any resizing."""

    train: int
    held_back: int
    side: int


def known_images(spec: JobSpec) -> Images | None:
    """What is known of the data without reading it: for the digits of scikit-learn and torchvision's data sets."""
    data = spec.dataset
    if isinstance(data, DigitsData) or (isinstance(data, NamedData) and data.name == "digits"):
        whole, test, side = DIGITS_IMAGES * (1 - data.test), DIGITS_IMAGES * data.test, DIGITS_SIDE
    elif isinstance(data, TorchvisionData):
        whole, test, side = TORCHVISION_SIZES[data.name]
    else:
        return None
    train = math.ceil(whole * (1 - data.validation))
    held_back = math.floor(whole + test) - train
    return Images(train=min(train, data.limit or train), held_back=held_back, side=side)


def known_side(spec: JobSpec) -> int | None:
    """Side in pixels of the images that the networks will see, where it is known without reading the data."""
    images = known_images(spec)
    return spec.dataset.image_size or (images.side if images else None)


def estimate(spec: JobSpec) -> Estimate:
    """Seconds, memory and artifact bytes that the job may take, each as an interval."""
    notes = []
    images = known_images(spec)
    if images is None:
        notes.append("The time is not known: how many images there are, only the worker can see.")
    if known_side(spec) is None:
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
    return float(row.macs) * ((known_side(spec) or row.input[1]) / row.input[1]) ** 2


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
