"""From the labels that stand in files, words or numbers, to classes numbered from 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData
from engine.data.packed import UNLABELLED
from engine.intake import names

Label = str | int
MOST_CLASSES = 100_000
_LONGEST = 200


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and the label of each sample."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    """int64 [N], -1 for none."""
    notes: tuple[str, ...]


def resolved(
    values: Sequence[Label], codes: NDArray[np.int64], *, in_training: NDArray[np.bool_], given: Sequence[str] | None
) -> Classes:
    """Number the classes: words by the alphabet, numbers by size.

    Args:
        values: the different labels.
        codes: int64 [N], each sample's place in `values`, -1 for none.
        in_training: bool [N].
        given: names for labels that are numbers.

    Raises:
        UnreadableData: there are fewer than two classes, one has no training sample, or a number has no name.
    """
    values = _as_numbers(values)
    if len({type(value) for value in values}) > 1:
        raise UnreadableData(
            f"Some labels are words and some numbers: {names.quoted(map(str, values))}.", hint="Use one of the two."
        )
    order = sorted(range(len(values)), key=values.__getitem__)
    known = [values[place] for place in order]
    trained = np.unique(codes[in_training & (codes >= 0)])
    _check_trained(values, trained=trained)
    titles, notes = _titles(known, given=given)
    number = np.full(len(values) + 1, UNLABELLED, dtype=np.int64)
    number[order] = np.arange(len(order)) if titles.offset is None else np.asarray(known) - titles.offset
    return Classes(titles.names, number[codes], notes)


@dataclass(frozen=True)
class _Titles:
    names: tuple[str, ...]
    offset: int | None
    """The number of the first class, where numbers stand for given names."""


def _as_numbers(values: Sequence[Label]) -> Sequence[Label]:
    """Words that are all whole numbers, as in tables of text, as those."""
    words = [value for value in values if isinstance(value, str)]
    if len(words) == len(values) and all(_is_number(word) for word in words):
        numbers = [int(word) for word in words]
        return numbers if len(set(numbers)) == len(numbers) else values
    return values


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 10


def _check_trained(values: Sequence[Label], *, trained: NDArray[np.int64]) -> None:
    if len(trained) < 2:
        found = names.quoted(str(values[place]) for place in trained.tolist())
        raise UnreadableData(
            f"The training samples have {'one class' if len(trained) else 'no class'}: {found}.",
            hint="At least two classes are needed to tell apart. Put each class into a folder of its own, or check "
            "which column holds the label.",
        )
    if len(trained) < len(values):
        missing = sorted(set(range(len(values))) - set(trained.tolist()))
        raise UnreadableData(
            f"No training sample has the class {names.quoted(str(values[place]) for place in missing)}.",
            hint="Every class needs at least one training sample.",
        )


def _titles(known: Sequence[Label], *, given: Sequence[str] | None) -> tuple[_Titles, tuple[str, ...]]:
    if isinstance(known[0], str):
        titles = tuple(names.shown(str(value), most=_LONGEST) for value in known)
        if len(set(titles)) < len(titles) or any(not title.strip() for title in titles):
            raise UnreadableData(
                "Two classes have names that look alike, or one has none that can be seen.", hint="Rename them."
            )
        ignored = given is not None and tuple(given) != titles
        return _Titles(titles, None), ("The data names its classes; 'classes' was not used.",) if ignored else ()
    numbers = [int(value) for value in known]
    counted = numbers == list(range(len(numbers)))
    if given is None:
        note = () if counted else (f"The labels {names.quoted(map(str, numbers))} were numbered from 0.",)
        return _Titles(tuple(map(str, numbers)), None), note
    offset = 1 if numbers == list(range(1, len(given) + 1)) else 0
    if (not counted and offset == 0) or len(given) != len(numbers):
        raise UnreadableData(
            f"The labels are {names.quoted(map(str, numbers))}, and {len(given)} names of classes were given.",
            hint="Give one name for each number from 0 on, each with training samples.",
            pointer="/classes",
        )
    note = ("The labels count from 1: the first name was given to 1.",) if offset else ()
    return _Titles(tuple(given), offset), note
