"""Everything that can be found wrong in seconds, checked before hours of training: data, device, networks, teacher."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distillery.errors import DistilleryError, InvalidRequest, UnfitTeacher, UnreadableData, UnusableWeights
from distillery.spec.training import Training
from engine.data.dataset import Dataset
from engine.evaluate import evaluating
from engine.precision import Precision, autocast, resolve_device, resolve_precision

FEW_TEST_IMAGES = 300
"""Below this the interval around an accuracy of 90 % is wider than 3 points to either side."""


def check_data(dataset: Dataset) -> tuple[str, ...]:
    """Warnings about data that can be used.

    Raises:
        UnreadableData: fewer than two classes, a class without training images, an empty split, or an image that
            stands in two splits.
    """
    if len(dataset.classes) < 2:
        raise UnreadableData(
            f"The data set '{dataset.name}' has {len(dataset.classes)} class; there is nothing to tell apart.",
            hint="Use data with at least two classes.",
            pointer="/dataset",
        )
    counts = torch.bincount(dataset.train.labels.cpu(), minlength=len(dataset.classes))
    empty = [name for name, count in zip(dataset.classes, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise UnreadableData(
            f"The training split of '{dataset.name}' has no image of the class '{empty[0]}'.",
            hint="Add images of it, or raise 'limit'.",
            pointer="/dataset",
        )
    _check_splits(dataset)
    return _data_warnings(dataset)


def _check_splits(dataset: Dataset) -> None:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, split in splits.items():
        if len(split) == 0:
            raise UnreadableData(
                f"The {name} split of '{dataset.name}' is empty.",
                hint=f"Bring {name} images along, or let a share of the training images be held back for it.",
                pointer="/dataset",
            )
    ids = torch.cat([split.ids for split in splits.values()])
    shared = len(ids) - len(torch.unique(ids))
    if shared:
        raise UnreadableData(
            f"{shared} images of '{dataset.name}' stand in more than one split.",
            hint="Accuracy on images that were trained on says nothing; load the data again.",
            pointer="/dataset",
        )


def _data_warnings(dataset: Dataset) -> tuple[str, ...]:
    warnings = []
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        absent = len(dataset.classes) - len(torch.unique(split.labels))
        if absent:
            warnings.append(f"The {name} split has no image of {absent} of the {len(dataset.classes)} classes.")
    if len(dataset.test) < FEW_TEST_IMAGES:
        warnings.append(
            f"The test split has {len(dataset.test)} images: accuracies are known only roughly, see their intervals."
        )
    return tuple(warnings)


def check_device(training: Training) -> tuple[torch.device, Precision]:
    """The device and the precision that `training` will run on, after computing something there.

    Raises:
        InvalidRequest: this machine lacks the device or the precision, or the device does not answer.
    """
    device = resolve_device(training.device)
    precision = resolve_precision(training.precision, device)
    try:
        with autocast(device, precision=precision):
            probe = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
        works = bool((probe == 8).all())
    except RuntimeError as error:
        raise _unanswering(device, str(error).splitlines()[0]) from None
    if not works:
        raise _unanswering(device, "a product of ones comes out wrong")
    return device, precision


def _unanswering(device: torch.device, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The device '{device}' does not compute: {why}.",
        hint="Use 'device: cpu', or send the job to a queue with another worker.",
        pointer="/training/device",
    )


def check_architecture(name: str, *, pointer: str, classes: int, image_size: int, channels: int) -> None:
    """Whether a network can be built for this data; no memory is taken for its weights.

    Raises:
        UnknownName: the catalogue has no such network.
        InvalidRequest: the images are too small for it. Both name `pointer`, the field that asked for it.
    """
    from models import build

    try:
        with torch.device("meta"), _Undrawn():
            build(name, classes=classes, image_size=image_size, channels=channels)
    except DistilleryError as error:
        error.pointer = error.pointer or pointer
        raise


class _Undrawn(TorchFunctionMode):
    """Weights that have no memory are not drawn either: torch would load a symbolic algebra for that, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


_DRAWING = (
    *("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"),
    *("xavier_normal_", "orthogonal_"),
)


def check_forward(
    network: nn.Module,
    images: torch.Tensor,
    *,
    classes: int,
    role: str,
    device: torch.device | str,
    precision: Precision = "fp32",
    pointer: str = "",
) -> None:
    """Send a few images, float32 [B, C, H, W], through `network`, which is on `device`, and look at the answers.

    `role` is `teacher` or `student`, for the message, and `pointer` its place in the spec where that is another.

    Raises:
        UnusableWeights: the answers are not finite.
        InvalidRequest: they are not [B, K], or the network cannot read images of this shape at all.
    """
    device = torch.device(device)
    place = pointer or f"/{role}"
    pointer = f"{place}/architecture"
    try:
        with evaluating(network), torch.inference_mode(), autocast(device, precision=precision):
            logits = network(images.to(device))
    except (RuntimeError, ValueError) as error:
        raise InvalidRequest(
            f"The {role} cannot read images of shape {tuple(images.shape[1:])}: {str(error).splitlines()[0]}",
            hint="Choose another 'image_size' or another architecture.",
            pointer=pointer,
        ) from None
    expected = (len(images), classes)
    if not isinstance(logits, torch.Tensor) or logits.shape != expected:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InvalidRequest(
            f"The {role} answers with {found}; expected logits of {expected}.",
            hint=f"Use a network that gives one number for each of the {classes} classes of the data.",
            pointer=pointer,
        )
    if not torch.isfinite(logits).all():
        raise UnusableWeights(
            f"The {role} answers with numbers that are not finite.",
            hint="Its weights are damaged, or belong to another precision or normalisation.",
            pointer=place,
        )


def floor(*, classes: int, minimum: float | None = None) -> float:
    """The validation accuracy a teacher must reach: `minimum`, else twice that of guessing, at most halfway to 1."""
    return minimum if minimum is not None else min(2 / classes, (1 + 1 / classes) / 2)


WEAK_TEACHER_HINT = (
    "Check that its weights, class order, image size and normalisation belong to this data; train it longer; or lower "
    "'teacher.minimum_accuracy'."
)


def teacher_floor(accuracy: float, *, classes: int, minimum: float | None = None, pointer: str = "/teacher") -> None:
    """Refuse a teacher that knows too little to teach: `accuracy` is measured on the validation split, 0 to 1.

    Raises:
        UnfitTeacher: it lies below `floor`.
    """
    needed = floor(classes=classes, minimum=minimum)
    if not accuracy >= needed:  # so that NaN is refused too
        raise UnfitTeacher(
            f"The teacher answers {accuracy:.1%} of the validation images right; at least {needed:.1%} is asked for "
            f"({classes} classes).",
            cause="TEACHER_TOO_WEAK",
            hint=WEAK_TEACHER_HINT,
            pointer=pointer,
        )
