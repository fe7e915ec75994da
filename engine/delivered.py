"""From a delivered weights file back to its network: plain, an early exit, or several teachers as one."""

import json
from pathlib import Path

from torch import nn

from engine.data.dataset import Dataset
from engine.exits import rebuild_exit
from engine.outputs import Merge
from engine.teachers import Ensemble
from engine.weights import load_safetensors, read_metadata
from models import build


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


def _structure(told: dict[str, str], **shape: int) -> nn.Module:
    if "members" in told:
        merge: Merge = "mean_logits" if told["merge"] == "mean_logits" else "mean_probabilities"
        return Ensemble([build(name, **shape) for name in json.loads(told["members"])], merge=merge)
    if "exit" in told:
        return rebuild_exit(told["architecture"], int(told["exit"]), **shape)
    return build(told["architecture"], **shape)
