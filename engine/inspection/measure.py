"""How good a model is on the test split of some data."""

import torch
from torch import nn

from distillery.errors import UnusableWeights
from distillery.spec.dataset import DatasetSpec, NamedData, StoredData
from distillery.views import Measured
from engine import evaluate
from engine.data.dataset import Dataset

_BATCH = 100
"""Small enough for the maps of a small network to stay in the processor's cache."""


def measured(
    network: nn.Module, dataset: Dataset, *, spec: DatasetSpec, mean: tuple[float, ...], std: tuple[float, ...]
) -> Measured:
    """Top-1 on the test split.

    Raises:
        UnusableWeights: its answers are not finite.
    """
    test = dataset.test
    logits = evaluate.predict(network, test, mean=mean, std=std, device="cpu", batch_size=_BATCH)
    if not bool(torch.isfinite(logits).all()):
        raise UnusableWeights(
            "The model answers with numbers that are not finite.",
            hint="Its weights are damaged, or its preprocessing is another one.",
            pointer="/preprocessing",
        )
    right = int((logits.argmax(1) == test.labels.cpu()).sum())
    return Measured(
        data=_name(spec, dataset),
        data_sha256=dataset.sha256,
        images=len(test),
        top1=evaluate.wilson(right, total=len(test)),
    )


def _name(spec: DatasetSpec, dataset: Dataset) -> str:
    if isinstance(spec, StoredData):
        return spec.id
    return spec.name if isinstance(spec, NamedData) else dataset.name
