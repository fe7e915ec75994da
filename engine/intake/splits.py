"""Drawing the splits that a data set does not bring: the rule of `engine.data.splits`, on NumPy alone.

A test holds the two against each other. NumPy's RandomState is used because its stream is frozen: the same seed draws
the same samples in every version.
"""

import numpy as np
from numpy.typing import NDArray

from distillery.errors import UnreadableData

_PURPOSES = {"test": 1, "validation": 2}


def held_out(labels: NDArray[np.int64], *, share: float, seed: int, purpose: str) -> NDArray[np.int64]:
    """Rows of `labels` (int64 [N]) that are held back, ascending.

    Of each class `share` of the samples, rounded half up, is held back: at least one, and never all. A class with a
    single sample stays whole.
    """
    random = np.random.RandomState(np.array([seed, _PURPOSES[purpose]], dtype=np.uint32))
    order = np.argsort(labels, kind="stable").astype(np.int64)
    drawn = [np.empty(0, dtype=np.int64)]
    for rows in np.split(order, np.cumsum(np.bincount(labels))[:-1]):
        if len(rows):
            count = min(max(1, int(share * len(rows) + 0.5)), len(rows) - 1)
            drawn.append(rows[random.permutation(len(rows))[:count]])
    return np.sort(np.concatenate(drawn))


def completed(
    labels: NDArray[np.int64], split: NDArray[np.uint8], *, order: tuple[str, ...], shares: dict[str, float], seed: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The split of each sample after those that are missing were drawn from `train`, the test first; and what was done.

    Args:
        labels: int64 [N].
        split: uint8 [N], the place in `order`.
        shares: by split that may have to be drawn.

    Raises:
        UnreadableData: a class has too few samples.
    """
    split, notes = split.copy(), []
    for name in ("test", "validation"):
        if (split == order.index(name)).any():
            continue
        train = np.flatnonzero(split == order.index("train"))
        back = train[held_out(labels[train], share=shares[name], seed=seed, purpose=name)]
        if not len(back):
            raise UnreadableData(
                f"No samples are left for the {name} split: no class has two of the {len(train):,} that it is drawn "
                "from.",
                hint=f"Add samples, or bring a {name} split of your own.",
            )
        split[back] = order.index(name)
        notes.append(
            f"The data brings no {name} split: {len(back):,} of {len(train):,} samples were held back for it, "
            f"stratified by class, drawn with split_seed {seed}."
        )
    return split, tuple(notes)
