"""From logits to what is told of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillery.predictions import ClassScore, ImagePrediction


def told(
    logits: NDArray[np.float32], *, classes: Sequence[str], top_k: int, with_logits: bool
) -> tuple[ImagePrediction, ...]:
    """For each row of logits [N, K] the most probable classes; of equal ones, that of the lower index first."""
    values = logits.astype(np.float64)
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    places = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    return tuple(
        ImagePrediction(
            top=tuple(_score(classes, int(place), float(row[place])) for place in best),
            logits=tuple(map(float, plain)) if with_logits else None,
        )
        for plain, row, best in zip(logits, shares, places, strict=True)
    )


def _score(classes: Sequence[str], place: int, probability: float) -> ClassScore:
    given: dict[str, Any] = {"class": classes[place], "index": place, "probability": probability}
    return ClassScore(**given)


def agreement(one: Sequence[ImagePrediction], other: Sequence[ImagePrediction]) -> tuple[bool, ...]:
    """For each image, whether both find the same class the most probable."""
    return tuple(a.top[0].index == b.top[0].index for a, b in zip(one, other, strict=True))
