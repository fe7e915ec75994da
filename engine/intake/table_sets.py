"""Data sets of tables: one file, or several that are named after their splits, each row a sample."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from distillery.errors import UnreadableData
from distillery.spec.imports import Columns, DatasetImport
from engine.intake import names, text_tables
from engine.intake.gathering import Gathering, Plan
from engine.intake.limits import Budget
from engine.intake.members import Member
from engine.intake.sources import SPLIT_NAMES, Scratch, seekable, split_of, split_within
from engine.intake.tables import BrokenRow, Chosen, Row, choose

_ORDER = tuple(SPLIT_NAMES)


@dataclass(frozen=True)
class _File:
    """One table of the data set, the split that its name tells, and its columns."""

    table: Any
    split: str | None
    chosen: Chosen


def plan_texts(members: Sequence[Member], *, kind: text_tables.Kind, spec: DatasetImport, notes: Sequence[str]) -> Plan:
    """Read csv or tsv files, or lines of JSON, as texts with labels.

    Raises:
        UnreadableData: a file is no such table, or columns are missing.
        HostileFile: a file is made to be larger than memory.
    """
    if spec.columns.image is not None:
        raise UnreadableData(
            f"A {kind} file holds no images.", hint="Use parquet for images in a table.", pointer="/columns/image"
        )
    # An image column is not looked for by its usual names: 'image' may well be the text of a caption's file.
    files = _files([(text_tables.opened(member, kind=kind), member) for member in members], columns=spec.columns)
    if any(file.chosen.image is not None for file in files):
        raise UnreadableData(
            f"'{files[0].table.name}' has no column of texts.",
            hint="Name it in 'columns', such as columns: {text: caption}.",
            pointer="/columns/text",
        )

    def fill(gathering: Gathering) -> None:
        for file in files:
            for row in file.table.rows(file.chosen):
                _take_text(gathering, row, split=file.split)

    return Plan("text-classification", kind, fill, notes=(*notes, *_column_notes(files)))


def plan_parquet(
    members: Sequence[Member], *, spec: DatasetImport, budget: Budget, scratch: Scratch, notes: Sequence[str]
) -> Plan:
    """Read parquet files: images or texts, with labels.

    Raises:
        UnreadableData: a file is damaged, needs too much memory, or columns are missing or of other types.
    """
    from engine.intake.parquet import ParquetTable

    def opened(member: Member) -> ParquetTable:
        return ParquetTable(seekable(member, scratch=scratch)[0], name=member.name, budget=budget)

    files, kinds, counts, given = [], set[str](), 0, list[list[str]]()
    for member in members:
        with closing(opened(member)) as table:  # each is opened again when it is its turn: a child less meanwhile
            chosen = choose(table.header, columns=spec.columns, where=f"'{table.name}'")
            kinds.add(_kind(table, chosen))
            counts += table.count
            if chosen.label is not None and (found := table.class_names.get(table.header[chosen.label])):
                given.append(found)
        files.append(_File(member, _split_by_name(member), chosen))
    if len(kinds) > 1:
        raise UnreadableData("Some of the parquet files hold images and others texts.", hint="Import them apart.")
    files = _ordered(files)
    if kinds == {"text"}:
        return _plan_parquet_texts(files, opened, given=given, total=counts, notes=notes)
    return _plan_parquet_images(files, opened, given=given, total=counts, notes=notes, spec=spec, scratch=scratch)


def _plan_parquet_texts(
    files: Sequence[_File], opened: Callable[[Member], Any], *, given: list[list[str]], total: int, notes: Sequence[str]
) -> Plan:
    def fill(gathering: Gathering) -> None:
        gathering.given_names = _own_names(given)
        for file in files:
            with closing(opened(file.table)) as table:
                for row in table.rows(file.chosen):
                    _take_text(gathering, row, split=file.split)

    return Plan("text-classification", "parquet", fill, total=total, notes=tuple(notes))


def _plan_parquet_images(
    files: Sequence[_File],
    opened: Callable[[Member], Any],
    *,
    given: list[list[str]],
    total: int,
    notes: Sequence[str],
    spec: DatasetImport,
    scratch: Scratch,
) -> Plan:
    from engine.intake import table_images
    from engine.intake.decoding import Decoders

    decoders = scratch.enter_context(Decoders())
    tables = [(lambda file=file: opened(file.table), file.chosen, file.split) for file in files]
    channels = spec.channels or table_images.channels_of_most(tables, decoders=decoders)

    def fill(gathering: Gathering) -> None:
        gathering.given_names = _own_names(given)
        table_images.fill(gathering, tables, decoders=decoders, channels=channels, split=_split_of_row)

    return Plan("image-classification", "parquet", fill, channels, total, tuple(notes))


def _kind(table: Any, chosen: Chosen) -> str:
    """`text` or `image`.

    Raises:
        UnreadableData: the columns hold something else.
    """
    place = chosen.image if chosen.image is not None else chosen.texts[0]
    kind = table.kind_of(place)
    fits = kind in ("image", "pixels") if chosen.image is not None else kind == "text"
    if not fits:
        what = "images (bytes, or lists of numbers)" if chosen.image is not None else "texts"
        raise UnreadableData(
            f"'{table.name}': the column '{table.header[place]}' holds {names.shown(kind)}, not {what}.",
            hint="Name the right column in 'columns'.",
            pointer="/columns",
        )
    return "text" if chosen.image is None else "image"


def _own_names(given: list[list[str]]) -> tuple[str, ...] | None:
    """The names of classes that all files agree on."""
    return tuple(names.shown(name) for name in given[0]) if given and all(each == given[0] for each in given) else None


def _files(tables: Sequence[tuple[Any, Member]], *, columns: Columns) -> list[_File]:
    return _ordered(
        [
            _File(table, _split_by_name(member), choose(table.header, columns=columns, where=f"'{table.name}'"))
            for table, member in tables
        ]
    )


def _ordered(files: Sequence[_File]) -> list[_File]:
    """In the order of splits; a file whose name tells none is for training, if no other is."""
    told = {file.split for file in files if file.split}
    if told and "train" in told and any(file.split is None for file in files) and len(files) > 1:
        odd = next(file for file in files if file.split is None)
        raise UnreadableData(
            f"'{odd.table.name}' is named after no split, and others are.",
            hint="Name every file after its split: train.csv, validation.csv, test.csv.",
        )
    return sorted(files, key=lambda file: (_ORDER.index(file.split or "train"), file.table.name))


def _split_by_name(member: Member) -> str | None:
    return split_within(member.parts[-1]) or (split_of(member.parts[-2]) if len(member.parts) > 1 else None)


def _take_text(gathering: Gathering, row: Row | BrokenRow, *, split: str | None) -> None:
    placed = row.reason if isinstance(row, BrokenRow) else _split_of_row(row, split)
    if isinstance(row, BrokenRow) or placed not in _ORDER:
        gathering.add_broken(row.name, placed)
        return
    gathering.add_text(str(row.content), name=row.name, label=_label(row), split=placed)


def _split_of_row(row: Row, of_file: str | None) -> str:
    """The split of a row, or what is wrong with what it says."""
    if row.split is None:
        return of_file or "train"
    return split_of(row.split) or f"names the unknown split '{names.shown(row.split, most=50)}'"


def _label(row: Row) -> str | int | None:
    """None also of -1, by which published test sets say that they keep their labels to themselves."""
    return None if row.label in (-1, "-1") else row.label


def _column_notes(files: Sequence[_File]) -> Iterator[str]:
    chosen = files[0].chosen
    header = files[0].table.header
    if len(chosen.texts) > 1:
        yield f"Each text is {' and '.join(repr(header[place]) for place in chosen.texts)}, joined by a space."
