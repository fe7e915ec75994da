"""What must be known to make images up for a network that was trained on others: their form, and nothing of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """The images that a teacher reads. All of it comes with the teacher."""

    classes: int
    channels: int
    image_size: int
    """Side of the square images in pixels."""
    mean: Sequence[float]
    """Of each channel, of pixel values divided by 255."""
    std: Sequence[float]

    def normalised(self, images: Tensor) -> Tensor:
        """What networks read, (images - mean) / std, of images [B, C, H, W] in [0, 1]; the gradient passes through."""
        mean, std = (
            torch.tensor(each, dtype=torch.float32).to(images.device).view(1, -1, 1, 1)
            for each in (self.mean, self.std)
        )
        return (images - mean) / std


@dataclass(frozen=True)
class Lecture:
    """One epoch of a student that learns from made-up images. Every draw is a function of `seed`, `epoch` and place."""

    seed: int
    epoch: int
    """From 0."""
    start_batch: int
    """The first batch that is asked for: those before it have been learned from, and what they needed was made."""
    batch_count: int
    batch_size: int
    augment: tuple[str, ...]
    layout: torch.memory_format
    meanwhile: Callable[[], object] = lambda: None
    """Called between the steps of work that goes before a batch."""


def pixels(images: Tensor) -> Tensor:
    """uint8, rounded, of images in [0, 1] of any shape."""
    return (images.detach() * 255).round().to(torch.uint8)
