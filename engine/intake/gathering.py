"""The samples of one import on their way into the packed file: numbered, labelled, counted, the broken ones listed."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData
from distillery.spec.imports import DatasetImport
from distillery.views import Broken
from engine.data.packed import SPLITS, UNLABELLED, PackedWriter, Task
from engine.intake import names, splits
from engine.intake.labels import MOST_CLASSES, Label, resolved

MOST_SAMPLES = 5_000_000
_MOST_BROKEN = 100
_MOST_REASON = 300


@dataclass
class Gathering:
    """Takes the samples in order and writes them; `finish` labels and splits them.

    Args:
        step: told how many samples came so far, broken ones included.
    """

    writer: PackedWriter
    spec: DatasetImport
    step: Callable[[int], None] = lambda done: None
    notes: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    broken_count: int = 0
    given_names: tuple[str, ...] | None = None
    """Names for labels that are numbers, which the data itself brings."""
    splits: dict[str, int] = field(default_factory=dict)
    """How many samples each split has, once all are gathered."""
    _values: dict[Label, int] = field(default_factory=dict)
    _codes: "array[int]" = field(default_factory=lambda: array("q"))
    _split: bytearray = field(default_factory=bytearray)
    _first: bytes | None = None
    _varied: bool = False

    def add_image(self, pixels: NDArray[np.uint8], *, name: str, label: Label | None, split: str) -> None:
        """Take an image, uint8 [C, H, W]; without a label it is unlabelled, whatever its split."""
        self._note(label, split)
        self._compare(pixels.tobytes() if not self._varied else b"")
        self.writer.add_image(pixels, name=name)
        self.step(self._done)

    def add_text(self, text: str, *, name: str, label: Label | None, split: str) -> None:
        """Take a text; without a label it is unlabelled, whatever its split."""
        self._note(label, split)
        self._compare(text.encode() if not self._varied else b"")
        self.writer.add_text(text, name=name)
        self.step(self._done)

    def add_broken(self, member: str, reason: str) -> None:
        """Note a member that cannot be read, and why; `reason` goes on from its name."""
        self.broken_count += 1
        if len(self.broken) < _MOST_BROKEN:
            shown = names.shown(reason.removeprefix(f"'{member}' ").rstrip("."), most=_MOST_REASON)
            self.broken.append(Broken(member=names.shown(member, most=1_000), reason=shown))
        self.step(self._done)

    def finish(self) -> tuple[str, int, tuple[str, ...]]:
        """Number the classes, draw missing splits and finish the file: its sha256, its size, the classes.

        Raises:
            UnreadableData: members are broken and may not be, or what is left is nothing to learn from.
        """
        self._check_broken()
        codes, split = np.array(self._codes, dtype=np.int64), np.frombuffer(self._split, dtype=np.uint8).copy()
        split[codes == UNLABELLED] = SPLITS.index("unlabelled")
        classes: tuple[str, ...] = ()
        labels = codes
        if (codes != UNLABELLED).any():
            classes, labels, split = self._labelled(codes, split)
        self._check_content()
        self.splits = {name: int((split == place).sum()) for place, name in enumerate(SPLITS)}
        sha256, size = self.writer.finish(classes=classes, labels=labels, split=split, notes=self.notes)
        return sha256, size, classes

    def _labelled(
        self, codes: NDArray[np.int64], split: NDArray[np.uint8]
    ) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.uint8]]:
        alone = [name for place, name in enumerate(SPLITS[:3]) if (split == place).any()]
        if len(alone) == 1 and alone != ["train"]:
            self.notes.append(f"The data brings a {alone[0]} split alone; it was taken for the whole.")
            split[split == SPLITS.index(alone[0])] = SPLITS.index("train")
        train = split == SPLITS.index("train")
        if not train.any():
            raise UnreadableData(
                "The data has no training samples, only others.",
                hint="Add the training split, or leave the splits out: they are then drawn.",
            )
        found = resolved(list(self._values), codes, in_training=train, given=self.given_names or self.spec.classes)
        shares = {"test": self.spec.test, "validation": self.spec.validation}
        split, notes = splits.completed(found.labels, split, order=SPLITS, shares=shares, seed=self.spec.split_seed)
        self.notes.extend((*found.notes, *notes))
        return found.names, found.labels, split

    @property
    def _done(self) -> int:
        return len(self._codes) + self.broken_count

    def _note(self, label: Label | None, split: str) -> None:
        code = UNLABELLED
        if label is not None and split != "unlabelled":
            code = self._values.setdefault(label, len(self._values))
        self._codes.append(code)
        self._split.append(SPLITS.index(split))
        if len(self._values) > MOST_CLASSES or len(self._codes) > MOST_SAMPLES:
            raise UnreadableData(
                f"The data has more than {MOST_CLASSES:,} classes or {MOST_SAMPLES:,} samples.",
                hint="Check which column holds the label; split data that is larger.",
            )

    def _compare(self, content: bytes) -> None:
        if not self._varied:
            self._varied = self._first is not None and content != self._first
            self._first = None if self._varied else content

    def _check_broken(self) -> None:
        if self.broken_count and self.spec.on_error == "fail":
            first, more = self.broken[0], self.broken_count - 1
            others = f" {more:,} more {'are' if more > 1 else 'is'} broken." if more else ""
            raise UnreadableData(
                f"'{first.member}': {first.reason}.{others}",
                hint="Mend or remove what is broken, or import with on_error: skip, which leaves it out and lists it.",
                pointer="/on_error",
            )
        if self.broken_count:
            self.notes.append(f"{self.broken_count:,} broken members were left out.")

    def _check_content(self) -> None:
        if not self._codes:
            raise UnreadableData("No sample could be read.", hint="See which formats are read, and what is broken.")
        if not self._varied:
            raise UnreadableData(
                "All samples are the same: there is nothing to learn from them.", hint="Check how they were written."
            )


@dataclass(frozen=True)
class Plan:
    """What was recognised, and how it is gathered once the packed file is begun."""

    task: Task
    format: Literal["image_folder", "idx", "npz", "parquet", "csv", "jsonl"]
    fill: Callable[[Gathering], None]
    channels: int = 0
    """Of images."""
    total: int = 0
    """How many samples there will be; 0 where only reading will show."""
    notes: tuple[str, ...] = ()
