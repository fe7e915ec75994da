"""The channels' mean and deviation, by which images are normalised."""

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from engine.cores import usable_cores
from engine.data.images import Images

_BYTES_AT_ONCE = 2**24
_THREADS = 8


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W] divided by 255; a deviation of 0 is given as 1.

    Counted in whole numbers, a few portions of the images at a time, so the figures are the same on every machine and
    wherever the images lie.
    """
    portion = max(1, _BYTES_AT_ONCE // images.shape[1:].numel())
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    with ThreadPoolExecutor(min(_THREADS, usable_cores())) as pool:
        for counted in pool.map(lambda start: _counts(images[start : start + portion]), range(0, len(images), portion)):
            counts += counted
    found = [_moments(row) for row in counts.tolist()]
    return tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found)


def _counts(images: Tensor) -> Tensor:
    """How often each value occurs in each channel, int64 [C, 256]."""
    return torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.unbind(1)]).cpu()


def _moments(counts: list[int]) -> tuple[float, float]:
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    return total / (255 * n), math.sqrt((n * squares - total * total) / (255 * n) ** 2) or 1.0
