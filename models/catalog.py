"""The catalogue of networks, without torch: what each is called, costs and is made of.

The figures lie in `models.catalog_table` and the names of the layers in `catalog_layers.gz`. `python -m models.recount`
writes both from the networks themselves; a test holds every row against the network it tells of.
"""

import difflib
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distillery.errors import UnknownName
from models.catalog_table import TABLE

_TORCHVISION = "torchvision/"
LAYERS_FILE = Path(__file__).with_name("catalog_layers.gz")
"""Text: one network a line, its name and the module paths of all its layers, with spaces between them."""


@dataclass(frozen=True)
class Row:
    """One network of the catalogue."""

    name: str
    family: str
    task: str
    input: tuple[int, int, int]
    """Native input as channels, height, width: what the published weights or the original paper use."""
    parameters: int
    """For ten classes at the native input."""
    macs: int
    """Multiply-adds of one image, for ten classes at the native input. Counted as in `models.count`."""
    stages: tuple[str, ...]
    """Module paths of the last layer of each stage, shallow to deep, for `get_submodule`, at the native input."""
    small_input: bool
    """Made for images of 64 pixels and less, or given a gentler first layer when it is built for them."""
    smallest: int
    """Side, in pixels, of the smallest square image it works on (looked for from 4 pixels upwards)."""


def find(name: str, *, pointer: str = "") -> Row:
    """The row of that name; `pointer` is the field that the name came from, for the error.

    Raises:
        UnknownName: there is none; the hint names the nearest.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise UnknownName(f"There is no architecture '{name}'.", hint=_nearest(name), pointer=pointer)


@cache
def layers(name: str) -> tuple[str, ...]:
    """Module paths of every layer of a network of the catalogue, in the order of `named_modules`.

    They are the same whatever the size of the images, their channels and the number of classes.

    Raises:
        UnknownName: there is no such network.
    """
    row = find(name)
    line = next(line for line in _layer_lines() if line.startswith(f"{row.name} "))
    return tuple(line.split()[1:])


@cache
def _layer_lines() -> list[str]:
    return gzip.decompress(LAYERS_FILE.read_bytes()).decode().splitlines()


def _nearest(name: str) -> str:
    known = [row.name for row in ROWS]
    wanted = name.lower()
    if f"{_TORCHVISION}{wanted}" in known:
        return f"Did you mean '{_TORCHVISION}{wanted}'?"
    for prefix in ("", _TORCHVISION):  # a slip in a name matters more than a forgotten prefix
        if close := difflib.get_close_matches(prefix + wanted, known, n=1, cutoff=0.75):
            return f"Did you mean '{close[0]}'?"
    return "`distillery architectures` lists all of them."


def _parsed(line: str) -> Row:
    name, family, native, parameters, macs, smallest, small, stages = line.split()
    channels, side = (int(number) for number in native.split("x"))
    return Row(
        name=name,
        family=family,
        task="image-classification",
        input=(channels, side, side),
        parameters=int(parameters),
        macs=int(macs),
        stages=_expanded(stages),
        small_input=small == "+",
        smallest=int(smallest),
    )


def _expanded(pattern: str) -> tuple[str, ...]:
    """`layer{1,2}` is short for `layer1` and `layer2`."""
    prefix, _, endings = pattern.rstrip("}").partition("{")
    return tuple(prefix + ending for ending in endings.split(","))


ROWS: tuple[Row, ...] = tuple(_parsed(line) for line in TABLE.splitlines() if line)
