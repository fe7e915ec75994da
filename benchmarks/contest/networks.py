"""Teacher and student: the same networks with the same weights for every contender, ours and others."""

from pathlib import Path

import torch
from torch import nn

from benchmarks.contest.images import Arrays
from benchmarks.contest.task import Task
from models import build

_PREFIX = "module."


def teacher(task: Task, arrays: Arrays) -> nn.Module:
    """Drawn from seed 1, or with the weights of the task's file."""
    network = drawn(task.teacher, arrays, seed=1)
    if task.teacher_weights:
        network.load_state_dict(weights_in(Path(task.teacher_weights)))
    return network


def student(task: Task, arrays: Arrays) -> nn.Module:
    """Drawn from the task's seed."""
    return drawn(task.student, arrays, seed=2 + task.seed)


def drawn(name: str, arrays: Arrays, *, seed: int) -> nn.Module:
    """The same weights at every call."""
    torch.manual_seed(seed)
    return build(name, classes=arrays.classes, image_size=arrays.size, channels=arrays.channels)


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, alone or as akamaster/pytorch_resnet_cifar10 publishes it. Nothing but tensors is unpickled."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    state = stored.get("state_dict", stored)
    return {name.removeprefix(_PREFIX): each for name, each in state.items()}
