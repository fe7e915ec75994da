"""What every runtime gives and takes: one protocol, so that whoever measures or serves knows no runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

INPUT = "images"
OUTPUT = "logits"
Form = Literal["network", "onnx", "int8"]
Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, eq=False)
class Forms:
    """The forms in which one network can be loaded."""

    network: nn.Module
    onnx: Path | None = None
    """Its checked ONNX export."""
    int8: Path | None = None
    """Its ONNX export with weights and activations of eight bits."""

    def demanded(self, form: Form) -> Path:
        """The file of that form.

        Raises:
            ValueError: there is none; whoever loads makes it first.
        """
        path = self.onnx if form == "onnx" else self.int8
        if path is None:
            raise ValueError(f"This runtime loads the form '{form}', so the caller makes that file first.")
        return path


class Session(Protocol):
    """A network loaded into a runtime on one device, in float32 and the layout NCHW."""

    def feed(self, batches: Sequence[Tensor]) -> None:
        """Lay the sample batches (float32 [B, C, H, W]) where calls read them: on the device, not timed."""

    def call(self, index: int) -> float | None:
        """Answer batch `index` (counted round and round) and return when the answer is there.

        Gives the seconds that the device's own events measured, or None where it has none.
        """

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """The answers [B, K] to float32 images [B, C, H, W] from the CPU."""


class Runtime(Protocol):
    """A way to run a network."""

    name: str
    form: Form
    """What `load` reads of the forms."""
    precision: Precision
    """Below float32 its answers may differ from the eager network's; what that costs in accuracy is told."""

    def absent_on(self, device: torch.device) -> str:
        """Why this runtime cannot run on `device` here; empty when it can."""

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> Session:
        """A fresh session that shares nothing with the network or with another session.

        Raises:
            MissingDependency: the runtime is not installed, or cannot run on `device`.
        """


def in_batches(images: Tensor, answer: Callable[[Tensor], NDArray[np.float32]], *, size: int) -> NDArray[np.float32]:
    """The answers [B, K] to `images` [B, C, H, W] of a network that was made for batches of `size` and no other."""
    answers = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch)
        whole = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)]) if missing else batch
        answers.append(answer(whole)[: len(batch)])
    return np.concatenate(answers)
