"""End to end: a network that is given the bytes of image files, as it would be served, and how its time is divided.

Bytes are decoded, cut, resized and normalised by the functions that read image folders and make training batches, one
image after the other in the thread that calls; then the runtime answers, with the way to the device and back.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import MissingDependency
from distillery.report import Stages
from engine.data.dataset import Dataset
from engine.data.image_folder import decoded_bytes
from engine.data.resize import squared
from engine.data.views import Normalisation
from engine.runtimes import Session

MOST_IMAGES = 512
"""One of the largest batches that a sweep tries."""
MOST_BATCHES = 8
STAGE_CALLS = 32

Batch = tuple[bytes, ...]
"""The bytes of B image files."""


class Reading:
    """Bytes of image files to what the networks of one data set read."""

    def __init__(self, *, channels: int, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self._channels, self._size = channels, image_size
        self._normalise = Normalisation(mean=mean, std=std, device=torch.device("cpu"))

    @classmethod
    def of(cls, dataset: Dataset) -> "Reading":
        """As the training read this data set."""
        return cls(channels=dataset.channels, image_size=dataset.image_size, mean=dataset.mean, std=dataset.std)

    def decoded(self, batch: Sequence[bytes]) -> list[Tensor]:
        """The pixels of each image, uint8 [C, H, W], of whatever height and width it has.

        Raises:
            UnreadableData: one is not a whole image.
            MissingDependency: Pillow is not installed.
        """
        return [
            decoded_bytes(content, channels=self._channels, named=f"image {place} of the batch")
            for place, content in enumerate(batch)
        ]

    def prepared(self, pixels: Sequence[Tensor]) -> Tensor:
        """What a network reads, float32 [B, C, size, size]."""
        cut = [squared(image.unsqueeze(0), size=self._size) for image in pixels]
        return self._normalise(torch.cat(cut))


class EncodedSession:
    """A loaded network that answers bytes. It is called as a `Session` is, and fed with bytes in place of tensors."""

    def __init__(self, session: Session, *, reading: Reading) -> None:
        self._session = session
        self._reading = reading
        self._batches: list[Batch] = []

    def feed(self, batches: Sequence[Batch]) -> None:
        """Take the sample batches; nothing of them is decoded before it is timed."""
        self._batches = list(batches)

    def call(self, index: int) -> None:
        """Answer batch `index` (counted round and round), from its bytes to its logits."""
        self.answers(self._batches[index % len(self._batches)])

    def answers(self, batch: Batch) -> NDArray[np.float32]:
        """The logits [B, K]."""
        return self._session.logits(self._reading.prepared(self._reading.decoded(batch)))

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """As `Session.logits`: of images that are normalised already."""
        return self._session.logits(images)

    def staged(self, index: int, *, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float, float]:
        """Seconds that batch `index` takes to decode, to prepare and to compute."""
        batch = self._batches[index % len(self._batches)]
        began = clock()
        pixels = self._reading.decoded(batch)
        decoded = clock()
        images = self._reading.prepared(pixels)
        prepared = clock()
        self._session.logits(images)
        return decoded - began, prepared - decoded, clock() - prepared


def stages(
    session: EncodedSession, *, calls: int = STAGE_CALLS, clock: Callable[[], float] = time.perf_counter
) -> Stages:
    """The median of each stage over some calls; apart from what is timed as a whole, which has no clocks inside."""
    decode, prepare, compute = zip(*(session.staged(index, clock=clock) for index in range(calls)), strict=True)
    return Stages(decode_seconds=median(decode), prepare_seconds=median(prepare), compute_seconds=median(compute))


@dataclass(frozen=True, eq=False)
class SampleImages:
    """Test images in both forms, in the same order: as a network reads them, and as files."""

    pixels: Tensor
    """uint8 [N, C, size, size]."""
    reading: Reading
    files: tuple[bytes, ...]
    """Empty where nobody asked for them."""

    @classmethod
    def of(cls, dataset: Dataset, *, encoded: bool, most: int = MOST_IMAGES) -> "SampleImages":
        """At most so many images evenly spaced over the test split.

        Raises:
            MissingDependency: they are to be `encoded`, and Pillow is not installed.
        """
        rows = torch.linspace(0, len(dataset.test) - 1, min(most, len(dataset.test))).round().long()
        pixels = dataset.test.images[rows].cpu()
        return cls(
            pixels=pixels,
            reading=Reading.of(dataset),
            files=tuple(png(image) for image in pixels) if encoded else (),
        )

    def tensors(self, batch_size: int) -> tuple[Tensor, ...]:
        """Up to eight batches, float32 [B, C, size, size]; fewer images than a batch are used more than once."""
        return tuple(self.reading.prepared(self.pixels[rows].unbind()) for rows in self._rows(batch_size))

    def encoded(self, batch_size: int) -> tuple[Batch, ...]:
        """The same batches as files."""
        return tuple(tuple(self.files[row] for row in rows.tolist()) for rows in self._rows(batch_size))

    def _rows(self, batch_size: int) -> tuple[Tensor, ...]:
        count = max(1, min(MOST_BATCHES, len(self.pixels) // batch_size))
        rows = torch.arange(count * batch_size) % len(self.pixels)
        return tuple(rows[at : at + batch_size] for at in range(0, len(rows), batch_size))


def png(image: Tensor) -> bytes:
    """The file of uint8 [1 or 3, H, W], without loss.

    Raises:
        MissingDependency: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency(
            "Images are encoded with Pillow, which is not installed.", hint="Install it with: pip install pillow"
        ) from None
    values = image.permute(1, 2, 0).contiguous().numpy()
    written = io.BytesIO()
    Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).save(written, format="PNG")
    return written.getvalue()
