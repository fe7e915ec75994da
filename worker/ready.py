"""What a study stands on once `preparing` is over, and the networks built from it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillery.spec import JobSpec
from engine.data.dataset import Dataset
from engine.precision import Precision
from models import build


@dataclass(frozen=True)
class Ready:
    """The spec as it will run, the data in memory, and the teacher when it is not trained in the job."""

    spec: JobSpec
    dataset: Dataset
    device: torch.device
    precision: Precision
    teacher: nn.Module | None


def fresh(ready: Ready, architecture: str) -> nn.Module:
    """A network with weights drawn from the training seed: the same each time it is asked for."""
    seed, data = ready.spec.training.seed, ready.dataset
    if seed is None:
        raise AssertionError("A job runs only with a resolved spec, which always has a seed.")
    torch.manual_seed(seed)
    network = build(architecture, classes=len(data.classes), image_size=data.image_size, channels=data.channels)
    return network.to(ready.device)


def loaded(ready: Ready, architecture: str, state: dict[str, Tensor]) -> nn.Module:
    """A network with these weights, in evaluation mode."""
    network = fresh(ready, architecture)
    network.load_state_dict(state)
    return network.eval()
