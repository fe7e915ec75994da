"""CSV, TSV and lines of JSON, read line by line: no line, field or row may grow without bounds."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal

from distillery.errors import HostileFile, UnreadableData
from engine.intake import names
from engine.intake.members import Member
from engine.intake.tables import BrokenRow, Chosen, Row

MOST_COLUMNS = 1_000
LONGEST_FIELD = 1 << 20
_LONGEST_LINE = 4 << 20
_LONGEST_ROW = 8 << 20
_MOST_LINES_OF_A_ROW = 50_000
_SEPARATORS = ",\t;"
_LOOKED_AT = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_8 = "Save the file as UTF-8."


class SeparatedTable:
    """A table of separated values; its first row names the columns.

    Raises:
        UnreadableData: it is not UTF-8, holds NUL, or has no header.
        HostileFile: it has too many columns, or a line or field without end.
    """

    def __init__(self, member: Member) -> None:
        self.name, self._member = member.name, member
        with member.open() as stream:
            first = next(_Lines(stream, name=self.name), "")
        self._separator = max(_SEPARATORS, key=lambda each: (_outside_quotes(first, each), each == ","))
        with member.open() as stream:
            header = next(self._read(_Lines(stream, name=self.name)), (1, []))[1]
        if len(header) < 2:
            raise UnreadableData(
                f"'{self.name}' has {len(header)} column; a text and a label need two.",
                hint="Separate them by commas, tabs or semicolons, and name them in the first row.",
            )
        self.header: Sequence[str] = [names.shown(each, most=500).strip() for each in header]

    def rows(self, chosen: Chosen) -> Iterator[Row | BrokenRow]:
        """Every row but the first."""
        with self._member.open() as stream:
            lines = self._read(_Lines(stream, name=self.name))
            next(lines)
            for number, fields in lines:
                if fields:
                    yield self._row(fields, name=f"{self.name}, line {number}", chosen=chosen)

    def _row(self, fields: Sequence[str], *, name: str, chosen: Chosen) -> Row | BrokenRow:
        if len(fields) != len(self.header):
            return BrokenRow(name, f"has {len(fields)} columns where the header has {len(self.header)}")
        text = " ".join(filter(None, (fields[place].strip() for place in chosen.texts)))
        split = fields[chosen.split].strip() if chosen.split is not None else None
        label = fields[chosen.label].strip() if chosen.label is not None else ""
        return checked(name, text, label or None, split)

    def _read(self, lines: "_Lines") -> Iterator[tuple[int, list[str]]]:
        """The number of each row's first line, and its fields."""
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines, delimiter=self._separator, strict=False)
        while True:
            lines.begin_row()
            number = lines.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                endless = "limit" in str(error)
                raise (HostileFile if endless else UnreadableData)(
                    f"'{self.name}', line {number}: {str(error).partition(' - ')[0]}.",
                    hint="Perhaps a quotation mark is never closed. Write the file again with a csv library.",
                ) from None
            if len(fields) > MOST_COLUMNS:
                raise HostileFile(
                    f"'{self.name}', line {number} has {len(fields):,} columns; at most {MOST_COLUMNS:,} are read.",
                    hint="Keep the text, the label and the split alone.",
                )
            yield number, fields


class JsonTable:
    """A file with one JSON object per line; the keys of the first ones are the columns.

    Raises:
        UnreadableData: it is not UTF-8, holds NUL, or its first line is no object.
        HostileFile: a line has no end, or an object too many keys.
    """

    def __init__(self, member: Member) -> None:
        self.name, self._member = member.name, member
        keys: dict[str, None] = {}
        with member.open() as stream:
            for number, line in zip(range(_LOOKED_AT), _Lines(stream, name=self.name), strict=False):
                found = _object(line)
                if number == 0 and isinstance(found, str):
                    raise UnreadableData(
                        f"'{self.name}', line 1 {found}.", hint="Write one JSON object per line, without a list around."
                    )
                keys.update(dict.fromkeys(found) if isinstance(found, dict) else {})
        if len(keys) > MOST_COLUMNS:
            raise HostileFile(
                f"'{self.name}' has {len(keys):,} keys; at most {MOST_COLUMNS:,} are read.",
                hint="Keep the text, the label and the split alone.",
            )
        self._keys = list(keys)
        self.header: Sequence[str] = [names.shown(key, most=500).strip() for key in keys]

    def rows(self, chosen: Chosen) -> Iterator[Row | BrokenRow]:
        """Every line that is not empty."""
        with self._member.open() as stream:
            lines = _Lines(stream, name=self.name)
            for line in lines:
                lines.begin_row()
                if line.strip():
                    yield self._row(_object(line), name=f"{self.name}, line {lines.number}", chosen=chosen)

    def _row(self, found: dict[str, Any] | str, *, name: str, chosen: Chosen) -> Row | BrokenRow:
        if isinstance(found, str):
            return BrokenRow(name, found)
        pieces = [found.get(self._keys[place]) for place in chosen.texts]
        if not all(isinstance(piece, str | None) for piece in pieces):
            return BrokenRow(name, "has something else than a text")
        text = " ".join(piece.strip() for piece in pieces if piece and piece.strip())
        label = found.get(self._keys[chosen.label]) if chosen.label is not None else None
        split = found.get(self._keys[chosen.split]) if chosen.split is not None else None
        if isinstance(label, float) and label.is_integer() and abs(label) < 2**53:
            label = int(label)
        if not isinstance(label, str | int | None) or not isinstance(split, str | None):
            return BrokenRow(name, "has a label or a split that is neither a word nor a whole number")
        return checked(name, text, label, split)


def checked(name: str, text: str, label: str | int | None, split: str | None) -> Row | BrokenRow:
    """A row, or why it cannot be used."""
    if not text:
        return BrokenRow(name, "has no text")
    if len(text) > LONGEST_FIELD:
        return BrokenRow(name, f"has a text of more than {LONGEST_FIELD:,} characters")
    if not _encodable(text) or (isinstance(label, str) and not _encodable(label)):
        return BrokenRow(name, "is not UTF-8")
    if "\0" in text:
        return BrokenRow(name, "holds a NUL character")
    if isinstance(label, str):
        label = label.strip() or None
        if label is not None and len(label) > 200:
            return BrokenRow(name, "has a label of more than 200 characters")
    elif isinstance(label, bool):
        label = int(label)
    elif label is not None and abs(label) >= 2**31:
        return BrokenRow(name, "has a label that is out of range")
    return Row(name, text, label, split)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(line: str) -> dict[str, Any] | str:
    """The object of a line, or why there is none."""
    try:
        found = json.loads(line)
    except RecursionError:
        return "is nested too deeply"
    except ValueError as error:
        return f"is not JSON: {str(error).partition(':')[0].lower()}"
    return found if isinstance(found, dict) else "is no JSON object"


def _outside_quotes(line: str, separator: str) -> int:
    return sum(piece.count(separator) for piece in line.split('"')[::2])


class _Lines:
    """Lines of UTF-8, each bounded. What is not UTF-8 stays visible as lone surrogates, for the row to be told.

    Raises:
        UnreadableData: a NUL, or UTF-16.
        HostileFile: a line, or the lines of one row, go on and on.
    """

    def __init__(self, stream: BinaryIO, *, name: str) -> None:
        self._stream, self._name = stream, name
        self.number = 0
        self._row_bytes = self._row_lines = 0

    def __iter__(self) -> "_Lines":
        return self

    def begin_row(self) -> None:
        """The next line belongs to another row."""
        self._row_bytes = self._row_lines = 0

    def __next__(self) -> str:
        line = self._stream.readline(_LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._row_bytes += len(line)
        self._row_lines += 1
        too_many = self._row_bytes > _LONGEST_ROW or self._row_lines > _MOST_LINES_OF_A_ROW
        if len(line) > _LONGEST_LINE or too_many:
            raise HostileFile(
                f"'{self._name}', line {self.number} is longer than {_LONGEST_LINE >> 20} MiB, or its row than "
                f"{_LONGEST_ROW >> 20} MiB or {_MOST_LINES_OF_A_ROW:,} lines.",
                hint="Shorten the texts; perhaps a quotation mark is never closed.",
            )
        if self.number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UnreadableData(f"'{self._name}' is text in UTF-16.", hint=_UTF_8)
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if b"\0" in line:
            raise UnreadableData(f"'{self._name}', line {self.number} holds a NUL byte: it is no text.", hint=_UTF_8)
        return line.decode(errors="surrogateescape")


Kind = Literal["csv", "jsonl"]


def opened(member: Member, *, kind: Kind) -> SeparatedTable | JsonTable:
    """The table in a member."""
    return SeparatedTable(member) if kind == "csv" else JsonTable(member)
