"""A model file to be looked into, and what is found."""

from dataclasses import dataclass
from pathlib import Path

from distillery.errors import UnusableWeights
from distillery.spec.imports import ModelImport
from distillery.views import ModelFacts
from engine.data.dataset import Dataset
from engine.data.packed import Packed


@dataclass(frozen=True)
class Subject:
    """A file that was found harmless, and what its owner says of it."""

    path: Path
    named: str
    """Its name on the owner's machine, for messages."""
    said: ModelImport
    out: Path
    """The folder for the delivered file."""
    dataset: Dataset | None = None
    """Data to measure it on, in the size that it reads."""
    packed: Packed | None = None
    """The same data as the service keeps it, which knows the names of its samples."""

    def named_classes(self, count: int, *, told: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The names of its classes: as said, as the file tells, as in the data, or else numbers.

        Raises:
            UnusableWeights: the names said are not as many as its outputs.
        """
        if self.said.classes is not None and len(self.said.classes) != count:
            raise UnusableWeights(
                f"{self.named} answers for {count} classes, and {len(self.said.classes)} names were given.",
                hint="Give one name for each output, in their order.",
                pointer="/classes",
            )
        offered = (self.said.classes, told, self.dataset.classes if self.dataset else None)
        numbers = tuple(map(str, range(count)))
        return next((each for each in offered if each is not None and len(each) == count), numbers)


@dataclass(frozen=True)
class Inspected:
    """What was found, and the file to keep."""

    facts: ModelFacts
    file: Path
    media_type: str
