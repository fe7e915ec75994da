"""The channels' mean and deviation, by which images are normalised."""

import math

import torch

from engine.data.images import Images

_BYTES_AT_ONCE = 2**25


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W] divided by 255; a deviation of 0 is given as 1.

    Counted in whole numbers, a portion of the images at a time, so the figures are the same on every machine and
    wherever the images lie.
    """
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    portion = max(1, _BYTES_AT_ONCE // images.shape[1:].numel())
    for start in range(0, len(images), portion):
        some = images[start : start + portion]
        for channel in range(channels):
            counts[channel] += torch.bincount(some[:, channel].reshape(-1), minlength=256)
    found = [_moments(row) for row in counts.tolist()]
    return tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found)


def _moments(counts: list[int]) -> tuple[float, float]:
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    return total / (255 * n), math.sqrt((n * squares - total * total) / (255 * n) ** 2) or 1.0
