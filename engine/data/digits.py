"""The 1,797 handwritten digits, 8x8 grey, that ship inside scikit-learn (Alpaydin and Kaynak, 1998)."""

import torch

from distillery.errors import MissingDependency
from distillery.spec.dataset import DigitsData
from engine.data.source import Source, class_names, in_memory

_INK_LEVELS = 16


def read(spec: DigitsData) -> Source:
    """Read the digits; ink of 0 to 16 becomes 0 to 255.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependency(
            f"The data set '{spec.kind}' ships inside scikit-learn, which is not installed.",
            hint="Install it with: pip install scikit-learn",
        ) from None
    bunch = load_digits()
    ink = torch.from_numpy(bunch.images).to(torch.int64).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    images = ((ink * 255 + _INK_LEVELS // 2) // _INK_LEVELS).to(torch.uint8)
    names = class_names([labels], names=None, where="digits")
    return Source(name="digits", classes=names, channels=1, height=8, width=8, train=in_memory(images, labels))
