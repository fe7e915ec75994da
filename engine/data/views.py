"""Batches of normalised images: shuffled and augmented for training, in order for evaluation.

A batch is made once and given to teacher and student alike, so both see the same view. Order and augmentation are a
function of (seed, epoch, batch index) and nothing else: a resumed run reads what the uninterrupted one would have.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distillery.errors import UnknownName
from distillery.spec.dataset import Augmentation
from engine.data.dataset import Split
from engine.data.images import Gathered, expect

AUGMENTATIONS: tuple[Augmentation, ...] = ("crop", "flip")
CROP_SHARE = 8
"""`crop` pads each side by an eighth of the image's, as the usual padding of 4 at 32 pixels."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples as the networks read them."""

    images: Tensor
    """float32 [B, C, H, W]: (pixels / 255 - mean) / std."""
    labels: Tensor
    """int64 [B]."""
    ids: Tensor
    """int64 [B], as in the split."""


def batch_count(n: int, *, batch_size: int) -> int:
    """How many batches an epoch over `n` images has.

    The last one may be smaller. A last batch of a single image is dropped when there are others, because batch
    normalisation has no variance to compute from one sample.
    """
    full, rest = divmod(n, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order of `n` images in an epoch: a permutation, int64 [n] on the CPU."""
    return torch.randperm(n, generator=_generator("order", seed, epoch))


def batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    start_batch: int = 0,
    channels_last: bool = False,
) -> Iterator[Batch]:
    """The batches of one epoch from `start_batch` on, shuffled and augmented, on the device of the split's labels.

    `start_batch=k` gives exactly the batches that a full pass gives from its k-th on. See `batch_count` for the last.

    Raises:
        UnknownName: an augmentation that is not in `AUGMENTATIONS`.
    """
    _refuse_unknown(augment)
    device, order = split.labels.device, epoch_order(len(split), seed=seed, epoch=epoch)
    placed = order.to(device)
    normalise = Normalisation(mean=mean, std=std, device=device, channels_last=channels_last)
    for index in range(start_batch, batch_count(len(split), batch_size=batch_size)):
        here, following = (slice(at * batch_size, (at + 1) * batch_size) for at in (index, index + 1))
        rows = placed[here]
        # Images that are read from a file are told apart on the host, and the next batch's load meanwhile.
        images = split.images.index_select(0, order[here] if isinstance(split.images, Gathered) else rows).to(device)
        expect(split.images, order[following])
        images = augmented(images, augment=augment, generator=_generator("view", seed, epoch, index))
        yield Batch(normalise(images), split.labels.index_select(0, rows), split.ids.index_select(0, rows))


def ordered(
    split: Split, *, batch_size: int, mean: Sequence[float], std: Sequence[float], channels_last: bool = False
) -> Iterator[Batch]:
    """Every image of the split once, in its own order and without augmentation, for evaluation."""
    device = split.labels.device
    normalise = Normalisation(mean=mean, std=std, device=device, channels_last=channels_last)
    everything = torch.arange(len(split))
    for start in range(0, len(split), batch_size):
        rows = slice(start, start + batch_size)
        images = split.images[rows].to(device)
        expect(split.images, everything[rows.stop : rows.stop + batch_size])
        yield Batch(normalise(images), split.labels[rows], split.ids[rows])


class Normalisation:
    """Turns pixels, uint8 [B, C, H, W], into what the networks read: float32 of mean 0 and deviation 1 per channel."""

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool = False
    ) -> None:
        deviation = torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) / deviation
        self._scale = (1 / (255 * deviation)).to(device, torch.float32).view(1, -1, 1, 1)
        self._shift = shift.to(device, torch.float32).view(1, -1, 1, 1)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: Tensor) -> Tensor:
        # Arithmetic first and the layout last: on the CPU this order takes a third of the time of the other one.
        values = pixels.to(torch.float32).mul_(self._scale).add_(self._shift)
        return values.contiguous(memory_format=self._layout)


def augmented(images: Tensor, *, augment: Sequence[str], generator: torch.Generator) -> Tensor:
    """A random view of each image of a batch: uint8 [B, C, H, W] in and out, drawn from a CPU generator.

    `flip` mirrors every second image on average. `crop` pads with zeros (black, before normalisation, as torchvision's
    RandomCrop does) by an eighth of the side, at least 1, and cuts at a random place.
    """
    count, device = len(images), images.device
    # The draws do not depend on each other's presence, so adding `flip` leaves the crops as they are.
    pad = max(1, images.shape[-1] // CROP_SHARE) if "crop" in augment else 0
    corner = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    if "flip" in augment:
        chosen = torch.arange(count) + count * torch.randint(0, 2, (count,), generator=generator)
        images = torch.cat((images, images.flip(-1))).index_select(0, chosen.to(device))
    return _cropped(images, pad=pad, corner=corner.to(device)) if pad else images


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


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator of its own for one purpose and place in the run; hashing keeps neighbours unrelated."""
    digest = hashlib.sha256(f"{purpose}/{'/'.join(map(str, numbers))}".encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator


def _refuse_unknown(augment: Sequence[str]) -> None:
    for name in augment:
        if name not in AUGMENTATIONS:
            raise UnknownName(
                f"No augmentation is called '{name}'.",
                hint=f"Known: {', '.join(AUGMENTATIONS)}.",
                pointer="/dataset/augment",
            )
