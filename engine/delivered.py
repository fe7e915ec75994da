"""From a delivered weights file back to its network: plain, an early exit, or several teachers as one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from distillery.errors import UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine import black_box
from engine.black_box import OnnxNetwork
from engine.data.dataset import Dataset
from engine.exits import rebuild_exit
from engine.intake import weights_onnx
from engine.outputs import Merge
from engine.teachers import Ensemble
from engine.weights import load_safetensors, read_metadata
from models import build

Outputs = Literal["auto", "logits", "probabilities"]


def network_of(path: Path, *, dataset: Dataset, otherwise: str) -> nn.Module:
    """The network of a weights file for this data, in evaluation mode.

    The header of the file says what it is, as of every file that a job delivers; a file that says nothing is one of the
    architecture `otherwise`.

    Raises:
        UnusableWeights: missing, damaged, or not of this data's shape.
    """
    return network_for(
        path,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        channels=dataset.channels,
        otherwise=otherwise,
    )


def network_for(path: Path, *, classes: int, image_size: int, channels: int, otherwise: str) -> nn.Module:
    """The same for images of this shape, whatever data they are of.

    Raises:
        UnusableWeights: missing, damaged, or not of this shape.
    """
    told = {"architecture": otherwise, **read_metadata(path)}
    network = _structure(told, classes=classes, image_size=image_size, channels=channels)
    load_safetensors(network, path)
    return network.eval()


def graph_of(
    path: Path,
    *,
    classes: int,
    image_size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    preprocessing: Preprocessing | None = None,
    outputs: Outputs = "auto",
) -> OnnxNetwork:
    """A foreign ONNX graph as a network for images of this shape, normalised like this.

    What it expects of an image, and what its answers are, is told by the file of a job, or has to be given.

    Raises:
        UnusableWeights: damaged, not of this shape, or nobody tells what it expects.
    """
    content = black_box.read(path)
    graph = weights_onnx.check(content)
    expects = preprocessing or black_box.told_preprocessing(graph)
    if expects is None:
        raise UnusableWeights(
            f"{path.name} does not tell what it expects of an image.",
            hint="Give the file that a job delivered, or add it as a model and say it there.",
        )
    told = black_box.told_outputs(graph) if outputs == "auto" else outputs
    network = OnnxNetwork(content, preprocessing=expects, classes=classes, outputs=told)
    return network.fitted(mean=tuple(mean), std=tuple(std), image_size=image_size, channels=channels)


def _structure(told: dict[str, str], **shape: int) -> nn.Module:
    if "members" in told:
        merge: Merge = "mean_logits" if told["merge"] == "mean_logits" else "mean_probabilities"
        return Ensemble([build(name, **shape) for name in json.loads(told["members"])], merge=merge)
    if "exit" in told:
        return rebuild_exit(told["architecture"], int(told["exit"]), **shape)
    return build(told["architecture"], **shape)
