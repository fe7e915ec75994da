"""The 1,797 handwritten digits, 8x8 grey, that ship inside scikit-learn (Alpaydin and Kaynak, 1998)."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from distillery.errors import MissingDependency
from distillery.spec.dataset import DigitsData
from engine.data.source import Source, class_names, in_memory

_INK_LEVELS, _SIDE = 16, 8
_TABLE = Path("datasets", "data", "digits.csv.gz")
"""Within the package: a row of 64 pixels and a label for each digit."""


def read(spec: DigitsData) -> Source:
    """Read the digits; ink of 0 to 16 becomes 0 to 255.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    table = torch.from_numpy(np.loadtxt(_file(spec), delimiter=",", dtype=np.int64))
    ink, labels = table[:, :-1].reshape(-1, 1, _SIDE, _SIDE), table[:, -1].clone()
    images = ((ink * 255 + _INK_LEVELS // 2) // _INK_LEVELS).to(torch.uint8)
    names = class_names([labels], names=None, where="digits")
    return Source(name="digits", classes=names, channels=1, height=8, width=8, train=in_memory(images, labels))


def _file(spec: DigitsData) -> Path:
    """Where the table lies. The package is not imported: that takes seconds, and nothing else of it is wanted."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise MissingDependency(
            f"The data set '{spec.kind}' ships inside scikit-learn, which is not installed.",
            hint="Install it with: pip install scikit-learn",
        )
    return Path(package.origin).parent / _TABLE
