"""Drawing the splits that a data set does not bring, class by class, from the split seed alone.

NumPy's RandomState is used because its stream is frozen: the same seed draws the same images in every version.
"""

import numpy as np
import torch
from torch import Tensor

from distillery.errors import UnreadableData

_PURPOSES = {"test": 1, "validation": 2, "limit": 3}


def held_out(labels: Tensor, *, share: float, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Rows of `labels` (int64 [N]) that stay and rows held back, each ascending.

    Of each class `share` of the images, rounded half up, is held back: at least one, and never all. A class with a
    single image stays whole.
    """
    random = _random(seed, purpose)
    drawn = [torch.empty(0, dtype=torch.int64)]
    for rows in _rows_by_class(labels):
        count = min(max(1, int(share * len(rows) + 0.5)), len(rows) - 1)
        drawn.append(rows[torch.from_numpy(random.permutation(len(rows)))[:count]])
    back = torch.zeros(len(labels), dtype=torch.bool)
    back[torch.cat(drawn)] = True
    return torch.nonzero(~back).flatten(), torch.nonzero(back).flatten()


def limited(labels: Tensor, *, limit: int, seed: int) -> Tensor:
    """`limit` rows of `labels`, ascending; each class keeps its share, to within one image, and at least one.

    Raises:
        UnreadableData: `limit` is smaller than the number of classes.
    """
    groups = _rows_by_class(labels)
    if limit < len(groups):
        raise UnreadableData(
            f"A 'limit' of {limit} images cannot hold one of each of the {len(groups)} classes.",
            hint=f"Use a 'limit' of at least {len(groups)}.",
            pointer="/dataset/limit",
        )
    random = _random(seed, "limit")
    quotas = _quotas([len(rows) for rows in groups], total=min(limit, len(labels)))
    kept = [
        rows[torch.from_numpy(random.permutation(len(rows)))[:quota]]
        for rows, quota in zip(groups, quotas, strict=True)
    ]
    return torch.cat(kept).sort().values


def _quotas(sizes: list[int], *, total: int) -> list[int]:
    """Whole numbers in proportion to `sizes`, at least 1 each, that add up to `total` (largest remainder method)."""
    everything = sum(sizes)
    # Integers throughout: a rounding that differs between machines would draw other images.
    shares = [divmod(size * total, everything) for size in sizes]
    quotas = [max(1, whole) for whole, _ in shares]
    # A class that the minimum has rounded up already gets no more.
    waiting = [index for index, (whole, _) in enumerate(shares) if whole]
    by_remainder = sorted(waiting, key=lambda index: (-shares[index][1], index))
    for index in by_remainder[: max(0, total - sum(quotas))]:
        quotas[index] += 1
    while sum(quotas) > total:  # the minimum of 1 gave too much to rare classes: the largest pay
        quotas[max(range(len(quotas)), key=lambda i: (quotas[i], -i))] -= 1
    return quotas


def _rows_by_class(labels: Tensor) -> list[Tensor]:
    """The rows of each class that occurs, ascending."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    return [rows for rows in torch.split(order, counts.tolist()) if len(rows)]


def _random(seed: int, purpose: str) -> np.random.RandomState:
    """A stream of its own for each purpose, so that changing one split leaves the others as they are."""
    return np.random.RandomState(np.array([seed, _PURPOSES[purpose]], dtype=np.uint32))
