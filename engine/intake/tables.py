"""Tables of texts: which columns hold what, found by the usual names or told by the user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from distillery.errors import UnreadableData
from distillery.spec.imports import Columns
from engine.intake import names

TEXT_NAMES = (
    "text", "sentence", "content", "document", "review", "body", "message", "tweet", "comment", "description",
    "abstract", "article", "question", "utterance", "news", "sms", "post", "passage", "summary",
)  # fmt: skip
TITLE_NAMES = ("title", "headline", "subject")
LABEL_NAMES = (
    "label", "class", "category", "sentiment", "target", "labels", "class index", "class_index", "classindex",
    "label_text", "label_name", "classname", "class_name", "intent", "topic", "emotion", "stars", "rating", "polarity",
    "spam", "y",
)  # fmt: skip
SPLIT_COLUMN_NAMES = ("split", "subset", "partition", "set", "fold")
IMAGE_NAMES = ("image", "img", "images", "picture", "pixels", "photo", "image_bytes")
_SHOWN = 12


@dataclass(frozen=True)
class Chosen:
    """Places of the columns in a table's header."""

    texts: tuple[int, ...]
    """Joined by a space: a title goes before its text."""
    image: int | None
    label: int | None
    split: int | None


class Table(Protocol):
    """A file of rows."""

    name: str
    header: Sequence[str]

    def rows(self, chosen: Chosen) -> "Iterator[Row | BrokenRow]":
        """Every row in order, or why it is none."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the chosen columns of one row hold."""

    name: str
    content: str | bytes
    """A text, or the bytes of an image file."""
    label: str | int | None
    split: str | None


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    name: str
    reason: str


def choose(header: Sequence[str], *, columns: Columns, where: str) -> Chosen:
    """Find the columns.

    Raises:
        UnreadableData: two have the same name, one that was asked for is missing, or none holds texts or images.
    """
    spelt = {_folded(name): place for place, name in reversed(list(enumerate(header)))}
    if len(spelt) < len(header):
        twice = next(name for place, name in enumerate(header) if spelt[_folded(name)] != place)
        raise UnreadableData(f"{where} has two columns '{names.shown(twice)}'.", hint="Rename one of them.")
    image = _asked(columns.image, spelt, header, field="image", where=where)
    text = _asked(columns.text, spelt, header, field="text", where=where)
    label = _asked(columns.label, spelt, header, field="label", where=where)
    split = _asked(columns.split, spelt, header, field="split", where=where)
    label = _usual(LABEL_NAMES, spelt) if label is None else label
    split = _usual(SPLIT_COLUMN_NAMES, spelt) if split is None else split
    if image is None and text is None:
        image = _usual(IMAGE_NAMES, spelt)
    texts = () if image is not None else (text,) if text is not None else _usual_texts(spelt)
    if image is None and not texts:
        raise UnreadableData(
            f"{where}: no column has one of the usual names of texts or images; found {_quoted(header)}.",
            hint="Name it in 'columns', such as columns: {text: sentence, label: class}. The first row must hold the "
            "names of the columns.",
            pointer="/columns/text",
        )
    if label is None:
        raise UnreadableData(
            f"{where}: no column has one of the usual names of labels; found {_quoted(header)}.",
            hint="Name it in 'columns', such as columns: {label: class}.",
            pointer="/columns/label",
        )
    return Chosen(texts, image, label, split)


def _usual_texts(spelt: dict[str, int]) -> tuple[int, ...]:
    title, text = _usual(TITLE_NAMES, spelt), _usual(TEXT_NAMES, spelt)
    return tuple(place for place in (title, text) if place is not None)


def _usual(wanted: Sequence[str], spelt: dict[str, int]) -> int | None:
    return next((spelt[name] for name in wanted if name in spelt), None)


def _asked(name: str | None, spelt: dict[str, int], header: Sequence[str], *, field: str, where: str) -> int | None:
    """The place of a column that the user named, or counted from 0."""
    if name is None:
        return None
    place = spelt.get(_folded(name))
    if place is None and name.isascii() and name.isdigit() and int(name[:6]) < len(header):
        place = int(name)
    if place is None:
        raise UnreadableData(
            f"{where} has no column '{names.shown(name)}'; found {_quoted(header)}.",
            hint="Use one of its names.",
            pointer=f"/columns/{field}",
        )
    return place


def _folded(name: str) -> str:
    return name.strip().lower()


def _quoted(header: Sequence[str]) -> str:
    return names.quoted(header, most=_SHOWN)
