"""The network that makes images up: a DCGAN-like stack of upsampling and convolution, for square images of any side."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.synthesis.canvas import Canvas

WIDTH = 128
"""Channels of every map but the last one, which has half of them: those of DAFL and Fast-DFKD."""
LARGEST_START = 12
"""Side of the first map at most. The usual quarter of the image holds up to 48 pixels; beyond, the linear layer that
draws the first map would have more weights than many a teacher, so that the image is halved more often."""
_SMALLEST_START = 2
_LEAK = 0.2
_DARKEST = 0.01


class Generator(nn.Module):
    """Latents [B, L], normally distributed, to images [B, C, S, S] in (0, 1).

    Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
    ICLR 2016, in the form of Chen et al., ICCV 2019 (DAFL): upsampling by copying, then a convolution.

    Two things differ from DAFL. Batch normalisation knows no running statistics: it always uses those of its batch, so
    that nothing in it can go stale when a copy is trained in its place. And DAFL's last normalisation is left out: it
    forces every batch to the mean and deviation of 0 and 1, which the teacher's own normalisation of real batches only
    has on average. Instead the images begin with the mean that comes with the teacher.
    """

    def __init__(self, *, latent: int, canvas: Canvas) -> None:
        super().__init__()
        self.sides = sides(canvas.image_size)
        blocks = len(self.sides) - 1
        widths = [WIDTH] * blocks + [WIDTH // 2]
        self.first = nn.Linear(latent, WIDTH * self.sides[0] ** 2)
        self.norm = _batch_norm(WIDTH)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(taken, given, 3, padding=1, bias=False) for taken, given in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_batch_norm(width) for width in widths[1:])
        self.last = nn.Conv2d(widths[-1], canvas.channels, 3, padding=1)
        self.last.bias = nn.Parameter(torch.tensor([_logit(mean) for mean in canvas.mean]))

    def forward(self, latents: Tensor) -> Tensor:
        """Images of exactly the canvas's size."""
        maps = self.norm(self.first(latents).view(len(latents), WIDTH, self.sides[0], self.sides[0]))
        for side, convolution, norm in zip(self.sides[1:], self.convolutions, self.norms, strict=True):
            wider = functional.interpolate(maps, size=(side, side), mode="nearest")
            maps = functional.leaky_relu(norm(convolution(wider)), _LEAK)
        images: Tensor = self.last(maps).sigmoid()
        return images


def sides(image_size: int) -> list[int]:
    """The sides of the maps from the first to the image: each is half of the next one, rounded up, and at least 2.

    Two doublings, or as many more as bring the first to `LARGEST_START`. One pixel would not do as a first map: of a
    single image it has no variance to normalise by.
    """
    found = [image_size]
    while len(found) < 3 or found[0] > LARGEST_START:
        found.insert(0, max(_SMALLEST_START, math.ceil(found[0] / 2)))
    return found


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _logit(mean: float) -> float:
    inside = min(max(mean, _DARKEST), 1 - _DARKEST)
    return math.log(inside / (1 - inside))
