"""What is known of a job's data without reading it: only the worker can look at files."""

import math
from dataclasses import dataclass

from distillery.spec import JobSpec
from distillery.spec.dataset import DigitsData, NamedData, TorchvisionData

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


@dataclass(frozen=True)
class Images:
    """Sizes of the splits, and the side of the images in pixels before any resizing."""

    train: int
    held_back: int
    side: int


def known_images(spec: JobSpec) -> Images | None:
    """For the digits of scikit-learn and torchvision's data sets; None for all other data."""
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
