"""A table of answers: how many, for which samples, and of which kind."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from distillery.views import Measured, ModelFacts
from engine.answers_table import AnswersTable
from engine.checkpoint import written_whole
from engine.data.packed import Packed
from engine.inspection.measure import measured
from engine.inspection.subject import Inspected, Subject
from engine.intake import answers
from engine.intake.answers import Answers

FILE = "table.npz"
_MEDIA_TYPE = "application/octet-stream"
_UNSEEN = Preprocessing(image_size=32)
"""A table reads no images; this stands where nobody tells what its maker read."""


def inspect(subject: Subject) -> Inspected:
    """A table that was found harmless; it is kept with numbers for ids.

    Raises:
        UnusableWeights: it lacks samples of the data, or answers for other classes.
        InvalidRequest: it tells samples by name, and no kept data set was named that knows them.
    """
    table, notes = _numbered(answers.read(subject.path), subject)
    count = _classes(table, subject)
    outputs = subject.said.outputs
    made = AnswersTable(table, classes=count, outputs=outputs)
    accuracy = _measured(made, subject)
    path = subject.out / FILE
    content = answers.packed(table)
    with written_whole(path, expected_bytes=len(content)) as writer:
        writer.write(content)
    if outputs == "auto":
        notes = (*notes, f"Its answers were taken for {made.outputs}.")
    facts = ModelFacts(
        format="table",
        architecture="table",
        classes=subject.named_classes(count),
        preprocessing=_preprocessing(subject),
        outputs=made.outputs,
        samples=len(made),
        measured=accuracy,
        notes=notes,
        file=FILE,
        sha256=writer.sha256,
        size_bytes=writer.size_bytes,
    )
    return Inspected(facts, path, _MEDIA_TYPE)


def _classes(table: Answers, subject: Subject) -> int:
    if table.classes is not None:
        return table.classes
    told = subject.said.classes or (subject.dataset.classes if subject.dataset else ())
    if not told:
        raise InvalidRequest(
            f"{subject.named} holds the top {table.values.shape[1]} answers, which do not tell how many classes there "
            "are.",
            hint="Give the classes, or the data that it answers.",
            pointer="/classes",
        )
    if table.most_class >= len(told):
        raise UnusableWeights(
            f"{subject.named} names the class {table.most_class}, and there are {len(told)}, counted from 0.",
            hint="Use a table of the same classes in the same order.",
            pointer="/classes",
        )
    return len(told)


def _preprocessing(subject: Subject) -> Preprocessing:
    if subject.said.preprocessing is not None:
        return subject.said.preprocessing
    data = subject.dataset
    if data is None:
        return _UNSEEN
    return Preprocessing(image_size=data.image_size, channels=3 if data.channels == 3 else 1)


def _measured(table: AnswersTable, subject: Subject) -> Measured | None:
    data, spec = subject.dataset, subject.said.dataset
    if data is None or spec is None:
        return None
    table.require(data)
    return measured(table, data, spec=spec, mean=data.mean, std=data.std)


def _numbered(table: Answers, subject: Subject) -> tuple[Answers, tuple[str, ...]]:
    """The same table with the number of each sample in place of its name."""
    if table.names is None:
        return table, ()
    if subject.packed is None:
        raise InvalidRequest(
            f"{subject.named} tells its samples by name, such as '{table.names[0][:80]}', and only a data set that the "
            "service keeps knows the names of its samples.",
            hint="Name that data set, or write the samples' numbers as ids.",
            pointer="/dataset",
        )
    numbers = _numbers(table.names, subject.packed)
    unknown = np.flatnonzero(numbers < 0)
    if len(unknown):
        raise UnusableWeights(
            f"{len(unknown):,} of the {len(numbers):,} names in {subject.named} are no samples of the data; the first "
            f"is '{table.names[int(unknown[0])][:80]}'.",
            hint=f"Name the samples as the data does, such as '{subject.packed.name(0)[:80]}'.",
            pointer="/dataset",
        )
    note = f"The names of {len(numbers):,} samples were turned into their numbers in the data set."
    return replace(table, ids=numbers, names=None), (note,)


def _numbers(names: tuple[str, ...], packed: Packed) -> NDArray[np.int64]:
    """For each name the number of its sample; -1 where there is none, or more than one."""
    places: dict[str, int] = {}
    for row in range(len(packed)):
        name = packed.name(row)
        places[name] = -1 if name in places else row
    return np.array([places.get(name, -1) for name in names], dtype=np.int64)
