"""Delivered networks, loaded to answer pixels: weights of our own, our ONNX export of them, or a foreign ONNX graph."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import DistilleryError, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.data.views import Normalisation
from engine.delivered import graph_of, network_for
from engine.runtimes import Eager, Forms, OnnxRuntime, reference
from engine.runtimes.session import Session
from engine.weights import read_metadata

Form = Literal["safetensors", "export", "graph"]
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Expected:
    """What is known of a network besides its file."""

    architecture: str
    """Of weights whose file does not tell it."""
    classes: int
    image_size: int
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    """Of weights whose file does not tell them."""
    preprocessing: Preprocessing | None = None
    """Of a foreign graph whose file does not tell it."""
    outputs: Literal["auto", "logits", "probabilities"] = "auto"


class Answering:
    """A network in a runtime, on the CPU."""

    def __init__(self, session: Session, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self._session = session
        self._normalise = Normalisation(mean=mean, std=std, device=_CPU)

    def logits(self, pixels: Tensor) -> NDArray[np.float32]:
        """Logits [B, K] for pixels [B, C, H, W] at the network's size: uint8, or float32 on the same scale.

        Raises:
            UnusableWeights: they are not finite.
        """
        values = pixels if pixels.dtype == torch.uint8 else pixels.clone()  # it works in place on floats
        answered = self._session.logits(self._normalise(values))
        if not np.isfinite(answered).all():
            raise UnusableWeights(
                "The network answers with numbers that are not finite.",
                hint="Use a network whose training did not diverge, and images like those it was trained on.",
            )
        return answered


def load(path: Path, *, form: Form, expected: Expected, threads: int) -> Answering:
    """The network of a file. Nothing of it is unpickled.

    Raises:
        UnusableWeights: it is damaged, or not what is expected.
        MissingDependency: its runtime is not installed.
    """
    torch.set_num_threads(threads)
    if form == "export":
        return Answering(_exported(path, threads=threads), mean=expected.mean, std=expected.std)
    if form == "graph":
        return _graph(path, expected)
    network = network_for(
        path,
        classes=expected.classes,
        image_size=expected.image_size,
        channels=expected.channels,
        otherwise=expected.architecture,
    )
    told = read_metadata(path)
    mean, std = (tuple(json.loads(told[name])) if name in told else () for name in ("mean", "std"))
    eager = Eager().load(Forms(network), device=_CPU, threads=threads)
    return Answering(eager, mean=mean or expected.mean, std=std or expected.std)


def _exported(path: Path, *, threads: int) -> Session:
    try:
        return OnnxRuntime().load(Forms(nn.Identity(), onnx=path), device=_CPU, threads=threads)
    except DistilleryError:
        raise
    except Exception as error:  # onnxruntime's errors have no root of their own
        reason = str(error).strip().splitlines()[0][:300]
        raise UnusableWeights(f"ONNX Runtime refuses the export: {reason}", hint="Export the network again.") from None


def _graph(path: Path, expected: Expected) -> Answering:
    """It normalises by itself, so it is given the pixels from 0 to 1."""
    zero, one = (0.0,) * expected.channels, (1.0,) * expected.channels
    network = graph_of(
        path,
        classes=expected.classes,
        image_size=expected.image_size,
        channels=expected.channels,
        mean=zero,
        std=one,
        preprocessing=expected.preprocessing,
        outputs=expected.outputs,
    )
    return Answering(reference(network, device=_CPU), mean=zero, std=one)
