"""Logits of many classes in little room: the likeliest ones as they are, and one number for all others.

The others get the one logit that leaves the probability of all of them together at T = 4 as it was, spread evenly. What
is lost is which of the unlikely classes is likelier than which: of answers with a long tail up to 1e-3 nats of KL at
T = 1, and up to 0.1 at T = 4. So nothing is packed unless it is asked for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = 256
"""Likeliest classes."""
PACKED = 2 * KEPT + 1
"""Numbers of 16 bits that the logits of an image become."""
_MOST = 1 << 16
"""Classes whose numbers fit into 16 bits."""
_TEMPERATURE = 4.0


def packable(shape: tuple[int, ...]) -> bool:
    """Whether logits of this shape [K] become smaller."""
    return len(shape) == 1 and PACKED < shape[0] <= _MOST


def packed(logits: NDArray[np.float32]) -> NDArray[np.float16]:
    """[B, K] as [B, PACKED]: values, the bits of their classes' numbers, and the logit of each other class."""
    order = np.argpartition(logits, -KEPT, axis=1)
    best, others = order[:, -KEPT:], np.take_along_axis(logits, order[:, :-KEPT], axis=1).astype(np.float64)
    highest = others.max(axis=1, keepdims=True)
    spread = np.exp((others - highest) / _TEMPERATURE).mean(axis=1, keepdims=True)
    tail = highest + _TEMPERATURE * np.log(spread)
    values = np.take_along_axis(logits, best, axis=1)
    return np.concatenate(
        [values.astype(np.float16), best.astype(np.uint16).view(np.float16), tail.astype(np.float16)], axis=1
    )


def unpacked(rows: NDArray[np.float16], *, classes: int) -> NDArray[np.float32]:
    """[B, K] of what `packed` made."""
    values, best, tail = rows[:, :KEPT], rows[:, KEPT : 2 * KEPT], rows[:, 2 * KEPT :]
    logits = np.repeat(tail.astype(np.float32), classes, axis=1)
    places: Any = np.ascontiguousarray(best).view(np.uint16).astype(np.int64)
    np.put_along_axis(logits, places, values.astype(np.float32), axis=1)
    return logits
