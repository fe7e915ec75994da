"""Delivered files, loaded again in a process that has seen nothing of the network they came from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.dataset import Dataset, Split
from engine.data.views import ordered
from engine.delivered import network_of
from engine.runtimes import Forms, OnnxRuntime, reference

SAMPLES = 32


def few(dataset: Dataset) -> Dataset:
    """The data set with nothing but the first 32 of its test images: what another process needs to know of it."""
    test = dataset.test
    part = Split(images=test.images[:SAMPLES].cpu(), labels=test.labels[:SAMPLES].cpu(), ids=test.ids[:SAMPLES].cpu())
    return replace(dataset, train=part, validation=part, test=part, unlabelled=None)


def samples(dataset: Dataset) -> torch.Tensor:
    """Those images, normalised, float32 [B, C, H, W] on the CPU."""
    return next(ordered(dataset.test, batch_size=SAMPLES, mean=dataset.mean, std=dataset.std)).images.cpu()


@dataclass(frozen=True, eq=False)
class Reloaded:
    """The answers of files: a safetensors file, an ONNX graph or a program, by its ending. `dataset` is one of `few`.

    A work for `in_own_process`.
    """

    files: tuple[Path, ...]
    dataset: Dataset
    architecture: str

    def __call__(self, tick: Callable[[], None]) -> list[NDArray[np.float32]]:
        """The logits [B, K] of each file."""
        images = samples(self.dataset)
        answers = []
        for file in self.files:
            tick()
            answers.append(self._answers(file, images))
        return answers

    def _answers(self, file: Path, images: torch.Tensor) -> NDArray[np.float32]:
        cpu = torch.device("cpu")
        if file.suffix == ".onnx":
            return OnnxRuntime().load(Forms(torch.nn.Identity(), onnx=file), device=cpu, threads=1).logits(images)
        if file.suffix == ".pt2":
            with torch.inference_mode():
                return np.asarray(torch.export.load(file).module()(images).numpy())
        network = network_of(file, dataset=self.dataset, otherwise=self.architecture)
        return reference(network, device=cpu).logits(images)
