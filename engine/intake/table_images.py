"""Images in the rows of a table: bytes of image files, decoded by guarded children, or pixels as numbers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from distillery.sniff import IMAGES, describe, sniff
from engine.intake.arrays import channels_last
from engine.intake.decoding import Decoders, Picture, Task
from engine.intake.gathering import Gathering
from engine.intake.shaping import shaped
from engine.intake.tables import BrokenRow, Chosen, Row

Tables = Sequence[tuple[Callable[[], Any], Chosen, str | None]]
"""How to open each table, its columns, and the split that its name tells."""
_PROBED = 500
_Answer = Picture | int | str


def channels_of_most(tables: Tables, *, decoders: Decoders) -> int:
    """1 or 3: what most of the first images of each table have."""
    found: list[_Answer] = []
    for opened, chosen, _ in tables:
        with closing(opened()) as table:
            rows = deque[Any]()
            answers = decoders.map(_contents(islice(table.rows(chosen), _PROBED), rows=rows), Task(None, 0))
            for answer in answers:
                row = rows.popleft()
                found.append(answer if isinstance(row, Row) else _channels(row))
    return 1 if found.count(1) > found.count(3) else 3


def fill(
    gathering: Gathering, tables: Tables, *, decoders: Decoders, channels: int, split: Callable[[Row, str | None], str]
) -> None:
    """Gather the images of all tables in order."""
    scaled = 0
    side = gathering.spec.short_side
    for opened, chosen, of_file in tables:
        with closing(opened()) as table:
            rows = deque[Any]()
            for answer in decoders.map(_contents(table.rows(chosen), rows=rows), Task(channels, side)):
                row = rows.popleft()
                picture = _shaped(row, channels=channels, side=side) if isinstance(row, tuple) else answer
                scaled += _take(gathering, row, picture, split=split, of_file=of_file)
    if scaled:
        gathering.notes.append(f"{scaled:,} images were scaled down to a short side of {side} pixels.")


def _take(
    gathering: Gathering, row: Any, picture: _Answer, *, split: Callable[[Row, str | None], str], of_file: str | None
) -> bool:
    """Gather one row's picture; tells whether it was scaled down."""
    plain = row[0] if isinstance(row, tuple) else row
    if isinstance(plain, BrokenRow) or not isinstance(picture, Picture):
        gathering.add_broken(plain.name, plain.reason if isinstance(plain, BrokenRow) else str(picture))
        return False
    placed = split(plain, of_file)
    if placed not in ("train", "validation", "test", "unlabelled"):
        gathering.add_broken(plain.name, placed)
        return False
    label = None if plain.label in (-1, "-1") else plain.label
    gathering.add_image(picture.pixels, name=plain.name, label=label, split=placed)
    return picture.scaled


def _contents(rows_of_table: Iterator[Any], *, rows: deque[Any]) -> Iterator[bytes | str]:
    """What the decoders are given for each row, which is kept in `rows` until its answer comes."""
    for row in rows_of_table:
        rows.append(row)
        if not isinstance(row, Row):
            yield "is no image file"  # pixels, or a broken row: nothing is decoded
            continue
        content = bytes(row.content) if isinstance(row.content, bytes) else b""
        kind = sniff(content)
        yield content if kind in IMAGES else f"has {describe(kind)}, not a JPEG, PNG or WebP image"


def _channels(row: Any) -> int | str:
    if not isinstance(row, tuple):
        return "broken"
    shape = row[1].array.shape
    return 1 if len(shape) == 2 or 1 in (shape[0], shape[2]) else 3


def _shaped(row: tuple[Row, Any], *, channels: int, side: int) -> Picture | str:
    array = row[1].array
    if array.ndim == 2:
        array = array[None]
    elif array.shape[0] not in (1, 3) and array.shape[2] not in (1, 3):
        return f"has an image of {'x'.join(map(str, array.shape))} numbers, whose channels cannot be told"
    elif array.shape[2] in (1, 3) and (array.shape[0] not in (1, 3) or channels_last((1, *array.shape), name="")):
        array = array.transpose(2, 0, 1)
    pixels, scaled = shaped(array, channels=channels, short_side=side)
    return Picture(pixels, scaled)
