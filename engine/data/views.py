"""Batches of normalised images: shuffled and augmented for training, in order for evaluation.

A batch is made once and given to teacher and student alike, so both see the same view. Order and augmentation are a
function of (seed, epoch, batch index) and nothing else: a resumed run reads what the uninterrupted one would have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.errors import UnknownName
from distillery.spec.dataset import Augmentation
from engine.data.cuts import seen
from engine.data.dataset import Split
from engine.data.draws import draws_of
from engine.data.images import Gathered, expect
from engine.data.view_sets import ViewSet, view_set

AUGMENTATIONS: tuple[Augmentation, ...] = ("crop", "flip")


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples as the networks read them."""

    images: Tensor
    """float32 [B, C, H, W]: (pixels / 255 - mean) / std."""
    labels: Tensor
    """int64 [B]."""
    ids: Tensor
    """int64 [B], as in the split."""
    cells: Tensor | None = None
    """int64 [B] on the CPU: the number of each sample's view among all of its split (see `engine.data.view_sets`); None
    where the images are no numbered views of a split."""


def batch_count(n: int, *, batch_size: int) -> int:
    """How many batches an epoch over `n` images has.

    The last one may be smaller. A last batch of a single image is dropped when there are others, because batch
    normalisation has no variance to compute from one sample.
    """
    full, rest = divmod(n, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order of `n` images in an epoch: a permutation, int64 [n] on the CPU."""
    return torch.randperm(n, generator=draws_of("order", seed, epoch))


def batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    views: int | None = None,
    start_batch: int = 0,
    channels_last: bool = False,
) -> Iterator[Batch]:
    """The batches of one epoch from `start_batch` on, shuffled and augmented, on the device of the split's labels.

    `views` bounds how many views of an image there are; None does not.

    `start_batch=k` gives exactly the batches that a full pass gives from its k-th on. See `batch_count` for the last.

    Raises:
        UnknownName: an augmentation that is not in `AUGMENTATIONS`.
    """
    _refuse_unknown(augment)
    device, order = split.labels.device, epoch_order(len(split), seed=seed, epoch=epoch)
    placed, shown = order.to(device), viewed(split, views=views, augment=augment)
    normalise = Normalisation(mean=mean, std=std, device=device, channels_last=channels_last)
    for index in range(start_batch, batch_count(len(split), batch_size=batch_size)):
        here, following = (slice(at * batch_size, (at + 1) * batch_size) for at in (index, index + 1))
        rows = placed[here]
        # Images that are read from a file are told apart on the host, and the next batch's load meanwhile.
        images = split.images.index_select(0, order[here] if isinstance(split.images, Gathered) else rows).to(device)
        expect(split.images, order[following])
        cuts, planes = shown.views(order[here], seed=seed, epoch=epoch, batch=index)
        yield Batch(
            normalise(seen(images, cuts)),
            split.labels.index_select(0, rows),
            split.ids.index_select(0, rows),
            shown.cells(order[here], planes),
        )


def viewed(split: Split, *, views: int | None, augment: Sequence[str]) -> ViewSet:
    """The views of a split's images that a run sees."""
    return view_set(views, count=len(split), image_size=split.images.shape[-1], augment=augment)


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


def _refuse_unknown(augment: Sequence[str]) -> None:
    for name in augment:
        if name not in AUGMENTATIONS:
            raise UnknownName(
                f"No augmentation is called '{name}'.",
                hint=f"Known: {', '.join(AUGMENTATIONS)}.",
                pointer="/dataset/augment",
            )
