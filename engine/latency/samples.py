"""Real test images as inputs, and the raw times as a table."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import InvalidRequest, MissingDependency
from distillery.report import Input
from engine.checkpoint import written_whole
from engine.data.dataset import Dataset, Split
from engine.data.sealed import SealedSplit
from engine.data.views import ordered
from engine.latency.rounds import Call
from engine.runtimes import reference

QUALITY_IMAGES = 10_000
QUALITY_SECONDS = 4.0
QUALITY_BATCH = 32
DISTINCT_BATCHES = 8
CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 32
DISTINCT_BYTES = 64 * 2**20
_ROWS_AT_ONCE = 100_000
COLUMNS = (
    "runtime", "device", "batch", "input", "load", "round", "order", "model", "call", "seconds", "device_seconds",
)  # fmt: skip


def batches(dataset: Dataset, *, batch_size: int) -> tuple[Tensor, ...]:
    """Up to eight batches [B, C, H, W] of test images, normalised; calls go round them.

    A test split smaller than a batch is used more than once.
    """
    image_bytes = 4 * dataset.channels * dataset.image_size**2
    count = max(1, min(DISTINCT_BATCHES, DISTINCT_BYTES // (image_bytes * batch_size)))
    rows = torch.arange(count * batch_size) % len(dataset.test)
    images = _normalised(_part(dataset.test, rows), dataset, batch_size=batch_size)
    return tuple(batch.contiguous() for batch in images)


def calibration(dataset: Dataset) -> list[NDArray[np.float32]]:
    """Batches [B, C, H, W] of at most 256 training images, evenly spaced and normalised: real inputs, none of the test.

    Raises:
        InvalidRequest: the job may not read its training images.
    """
    if isinstance(dataset.train, SealedSplit):
        raise InvalidRequest("Eight bits need training images to be calibrated on, and a data-free job has none.")
    rows = torch.linspace(0, len(dataset.train) - 1, min(CALIBRATION_IMAGES, len(dataset.train))).round().long()
    images = _normalised(_part(dataset.train, rows), dataset, batch_size=CALIBRATION_BATCH)
    return [batch.numpy() for batch in images]


def _part(split: Split, rows: Tensor) -> Split:
    return Split(images=split.images[rows].cpu(), labels=split.labels[rows].cpu(), ids=split.ids[rows].cpu())


def _normalised(split: Split, dataset: Dataset, *, batch_size: int) -> Iterator[Tensor]:
    for batch in ordered(split, batch_size=batch_size, mean=dataset.mean, std=dataset.std):
        yield batch.images


@dataclass(frozen=True, eq=False)
class QualityImages:
    """The test images on which the answers of each runtime are held against the eager network's."""

    batches: tuple[Tensor, ...]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, *, slowest: nn.Module) -> "QualityImages":
        """The test split, or 10,000 images evenly spaced over it; fewer when `slowest` takes over 4 s for them."""
        test = dataset.test
        rows = torch.linspace(0, len(test) - 1, min(QUALITY_IMAGES, len(test))).round().long()
        # Drawn in a scattered order, so that stopping early still leaves images from all over the split.
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        part = _part(test, rows)
        session = reference(slowest, device=torch.device("cpu"))
        kept: list[Tensor] = []
        began = time.monotonic()
        for images in _normalised(part, dataset, batch_size=QUALITY_BATCH):
            session.logits(images)
            kept.append(images)
            if time.monotonic() - began > QUALITY_SECONDS:
                break
        return cls(batches=tuple(kept), labels=part.labels[: sum(map(len, kept))].numpy())

    def answers(self, logits: Callable[[Tensor], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Logits [N, K]; `logits` gives those of a batch."""
        return np.concatenate([logits(images) for images in self.batches])

    def accuracy(self, logits: NDArray[np.float32]) -> float:
        """Top-1."""
        return float((logits.argmax(axis=1) == self.labels).mean())

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Timed:
    """The raw calls of one comparison."""

    runtime: str
    device: str
    batch_size: int
    input: Input
    calls: tuple[Call, ...]


def write_samples(timed: Iterable[Timed], path: Path) -> None:
    """Every timed call as a row; as `write_rows`."""
    rows = (
        (each.runtime, each.device, each.batch_size, each.input, *(getattr(call, name) for name in COLUMNS[4:]))
        for each in timed
        for call in each.calls
    )
    write_rows(COLUMNS, rows, path)


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """A table in Parquet or, where `path` ends in .csv, in CSV with seconds to the nanosecond.

    `device_seconds` is empty where the device tells none.

    Raises:
        MissingDependency: pyarrow, which writes Parquet, is not installed.
        StorageFull: no space is left.
    """
    content = _csv(columns, rows) if path.suffix == ".csv" else _parquet(columns, rows)
    with written_whole(path) as writer:
        writer.write(content)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of such a table by the names of its columns; everything in CSV is text.

    Raises:
        MissingDependency: pyarrow, which reads Parquet, is not installed.
    """
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
        return
    with _arrow()[1].ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    for row in rows:
        table.writerow(f"{each:.9f}" if isinstance(each, float) else each for each in row)
    return text.getvalue().encode()


def _parquet(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    arrow, parquet = _arrow()
    kinds = dict.fromkeys(("seconds", "device_seconds"), arrow.float64())
    kinds |= dict.fromkeys(("batch", "load", "round", "order", "call"), arrow.int32())
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in columns])
    out, left = io.BytesIO(), iter(rows)
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while some := list(islice(left, _ROWS_AT_ONCE)):
            writer.write_table(arrow.table([list(column) for column in zip(*some, strict=True)], schema=schema))
    return out.getvalue()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as absent:
        raise MissingDependency(
            "Raw samples are kept as Parquet by pyarrow, which is not installed.",
            hint="Install it with: pip install pyarrow, or keep them as CSV.",
        ) from absent
    return pyarrow, parquet
