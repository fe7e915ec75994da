"""Random views of images: a cut at some place of the padded image, mirrored or not."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CROP_SHARE = 8
"""`crop` pads each side by an eighth of the image's, as the usual padding of 4 at 32 pixels."""


@dataclass(frozen=True, eq=False)
class Views:
    """Which view of each of B images is seen."""

    pad: int
    """Pixels on each side of the padded image; 0 where nothing is cut."""
    corner: Tensor
    """int64 [2, B] on the CPU: top and left of the cut in the padded image, 0 to 2 * pad."""
    mirrored: Tensor | None
    """bool [B] on the CPU; None where no image is."""

    def of(self, rows: Tensor) -> "Views":
        """Those of some of the images, int64 [b]."""
        return Views(self.pad, self.corner[:, rows], None if self.mirrored is None else self.mirrored[rows])


def drawn(count: int, *, image_size: int, augment: Sequence[str], generator: torch.Generator) -> Views:
    """A random view of each of `count` images, drawn from a CPU generator.

    `flip` mirrors every second image on average. `crop` cuts at a random place of the padded image.
    """
    pad = padding(image_size, augment=augment)
    # The draws do not depend on each other's presence, so adding `flip` leaves the crops as they are.
    corner = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    if "flip" not in augment:
        return Views(pad, corner, None)
    return Views(pad, corner, torch.randint(0, 2, (count,), generator=generator).bool())


def padding(image_size: int, *, augment: Sequence[str]) -> int:
    """Pixels that `crop` adds on each side: an eighth of the image's side, at least 1; 0 without it."""
    return max(1, image_size // CROP_SHARE) if "crop" in augment else 0


def seen(images: Tensor, views: Views) -> Tensor:
    """The views of a batch, uint8 [B, C, H, W] in and out.

    What lies outside of the image is black before normalisation, as in torchvision's RandomCrop.
    """
    count, device = len(images), images.device
    if views.mirrored is not None:
        chosen = torch.arange(count) + count * views.mirrored
        images = torch.cat((images, images.flip(-1))).index_select(0, chosen.to(device))
    pad = views.pad
    return _cropped(images, pad=pad, corner=views.corner.to(device)) if pad else images


def augmented(images: Tensor, *, augment: Sequence[str], generator: torch.Generator) -> Tensor:
    """A random view of each image of a batch: uint8 [B, C, H, W] in and out, drawn from a CPU generator."""
    return seen(images, drawn(len(images), image_size=images.shape[-1], augment=augment, generator=generator))


def _cropped(images: Tensor, *, pad: int, corner: Tensor) -> Tensor:
    """Cut [B, C, H, W] at `corner` (top and left, [2, B]) out of the images padded with zeros.

    Each row of the result is a run of W bytes of the padded batch: one index_select over B*C*H run starts, which is
    twenty times faster on the CPU than indexing pixels.
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    stride = width + 2 * pad
    plane = torch.arange(count * channels, device=images.device).view(count, channels, 1) * (height + 2 * pad)
    row = torch.arange(height, device=images.device)
    starts = (plane + corner[0].view(-1, 1, 1) + row) * stride + corner[1].view(-1, 1, 1)
    runs = padded.reshape(-1).unfold(0, width, 1)
    return runs.index_select(0, starts.view(-1)).view(count, channels, height, width)
