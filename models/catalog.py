"""The networks by name, without torch: what the API lists and what a spec may name.

The figures lie in `catalog.csv` beside this file, made by `python -m models.recount`; a test holds each row against
the network that is built.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

from distillery.errors import UnknownName
from distillery.spec.frozen import nearest

FIELDS = ("name", "family", "input", "parameters", "macs", "smallest", "stages")


@dataclass(frozen=True)
class Row:
    """One network."""

    name: str
    family: str
    """The module of `models` that builds it."""
    task: str
    input: tuple[int, int, int]
    """Native input: channels, height, width."""
    parameters: int
    """For ten classes, at the native input."""
    macs: int
    """Multiply-adds of one image, for ten classes at the native input."""
    smallest: int
    """Side of the smallest square image that it can read, in pixels."""
    stages: tuple[str, ...]
    """Module names at the end of each stage, shallow to deep."""

    @property
    def small_input(self) -> bool:
        """Whether it was designed for small images."""
        return self.input[1] <= 64


def _read() -> tuple[Row, ...]:
    text = files("models").joinpath("catalog.csv").read_text(encoding="utf-8")
    return tuple(_row(line) for line in csv.DictReader(text.splitlines()))


def _row(line: dict[str, str]) -> Row:
    channels, height, width = (int(each) for each in line["input"].split("x"))
    return Row(
        name=line["name"],
        family=line["family"],
        task="image-classification",
        input=(channels, height, width),
        parameters=int(line["parameters"]),
        macs=int(line["macs"]),
        smallest=int(line["smallest"]),
        stages=tuple(line["stages"].split(" ")),
    )


ROWS = _read()


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        UnknownName: there is none; the hint gives the nearest.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise UnknownName(f"No architecture is called '{name}'.", hint=nearest(name, [row.name for row in ROWS]))
