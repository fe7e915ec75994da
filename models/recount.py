"""Count every network anew and write the catalogue: python -m models.recount

Run it after a change of a network, or when a new torchvision brings new ones. It takes a minute or two, needs no data
and prints nothing but the names it is at.
"""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from distillery.errors import InvalidRequest
from models.catalog import LAYERS_FILE
from models.count import multiply_adds, parameters
from models.families import FAMILIES, Family

_CLASSES = 10
_FEWEST_PIXELS = 4
"""Along one side; the least that a job may ask for."""
_HEAD = '''"""The figures of the catalogue. Written by `python -m models.recount`; do not edit by hand.

Columns: name, family, native input (channels x side), parameters and multiply-adds for ten classes, smallest side in
pixels, whether small images suit it (+ or -), stages (`layer{1,2}` is short for `layer1` and `layer2`).
"""

TABLE = """
'''


def main() -> None:
    """Write `models/catalog_table.py` and `models/catalog_layers.gz`."""
    figures, layers = [], []
    for family in FAMILIES:
        for name in _announced(family):
            network = _native(family, name)
            figures.append(_figures(family, name, network))
            layers.append(" ".join([name, *layer_names(network)]))
    text = _HEAD + "".join(f"{line}\n" for line in figures) + '"""\n'
    Path(__file__).with_name("catalog_table.py").write_text(text, encoding="utf-8")
    # Without the time of writing in it, the same names are the same bytes.
    LAYERS_FILE.write_bytes(gzip.compress("\n".join(layers).encode(), mtime=0))


def _announced(family: Family) -> Iterator[str]:
    for name in family.names():
        sys.stdout.write(f"{name}\n")
        yield name


def layer_names(network: nn.Module) -> list[str]:
    """Module paths of every layer of a network; of one that stands in several places, the first."""
    return [path for path, _ in network.named_modules() if path]


def _native(family: Family, name: str) -> nn.Module:
    channels, side, _ = family.traits(name).input
    with torch.device("meta"):
        return family.build(name, classes=_CLASSES, image_size=side, channels=channels)


def _figures(family: Family, name: str, network: nn.Module) -> str:
    traits = family.traits(name)
    channels, side, _ = traits.input
    columns = (
        name,
        traits.family,
        f"{channels}x{side}",
        parameters(network),
        multiply_adds(network, channels=channels, image_size=side),
        _smallest(family, name, native=side),
        "+" if traits.small_input else "-",
        shortened(traits.stages),
    )
    return " ".join(str(column) for column in columns)


def _smallest(family: Family, name: str, *, native: int) -> int:
    return next(side for side in range(_FEWEST_PIXELS, native + 1) if _works(family, name, side=side))


def _works(family: Family, name: str, *, side: int) -> bool:
    try:
        with torch.device("meta"):
            network = family.build(name, classes=_CLASSES, image_size=side, channels=3)
        multiply_adds(network, channels=3, image_size=side)
    except (InvalidRequest, RuntimeError):  # RuntimeError: a layer is left without a pixel
        return False
    return True


def shortened(paths: tuple[str, ...]) -> str:
    """`layer{1,2}` for `layer1` and `layer2`; the opposite of what the catalogue does on reading."""
    start = 0
    while len({path[: start + 1] for path in paths}) == 1 and start < min(len(path) for path in paths) - 1:
        start += 1
    return f"{paths[0][:start]}{{{','.join(path[start:] for path in paths)}}}"


if __name__ == "__main__":
    main()
