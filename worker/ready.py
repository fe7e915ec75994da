"""What a study stands on once `preparing` is over, and the networks built from it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod
from distillery.spec.training import TeacherTraining, Training
from engine.data.dataset import Dataset
from engine.data.views import Normalisation
from engine.precision import Precision
from models import build

_OTHER_DRAW = 2**32
"""Training seeds are smaller, so that a seed with a multiple of this added is none of theirs."""
_PORTION = 256
_LOOKED_AT = 8
"""Images on which layers are looked at before training."""


@dataclass(frozen=True)
class Ready:
    """The spec as it will run, the data, and of each teacher the network unless the job trains it."""

    spec: JobSpec
    dataset: Dataset
    device: torch.device
    precision: Precision
    teachers: tuple[nn.Module | None, ...]
    halved: frozenset[str] = frozenset()
    """The runs that are trained at half the learning rate of their recipe."""
    micro_batches: int = 1
    """Parts in which a batch goes through the networks, for want of memory."""
    remembers: bool = True
    """Whether what teachers say may be kept and read: not while a job is only tried out."""
    accuracies: tuple[float | None, ...] = ()
    """Of each given teacher, on validation images; None of one that the job trains, or where it may read no data."""
    preparing_seconds: float = 0.0
    """How long it took to get here."""

    @property
    def portion(self) -> int:
        """Images that are answered at once where nothing is trained."""
        return _PORTION // self.micro_batches


def fresh(ready: Ready, architecture: str, *, run: int = 0, draw: int = 0) -> nn.Module:
    """A network with weights drawn from the training seed: the same each time it is asked for.

    `run` counts the seeds of a study, `draw` the networks of one run that must not begin alike; both from 0.
    """
    data = ready.dataset
    torch.manual_seed(seed_of(ready, run) + draw * _OTHER_DRAW)
    network = build(architecture, classes=len(data.classes), image_size=data.image_size, channels=data.channels)
    return network.to(ready.device)


def seed_of(ready: Ready, run: int) -> int:
    """The training seed of a run, counted from 0."""
    seed = ready.spec.training.seed
    if seed is None:
        raise AssertionError("A job runs only with a resolved spec, which always has a seed.")
    return seed + run


def loaded(ready: Ready, architecture: str, state: dict[str, Tensor]) -> nn.Module:
    """A network with these weights, in evaluation mode."""
    network = fresh(ready, architecture)
    network.load_state_dict(state)
    return network.eval()


def samples(ready: Ready) -> Tensor:
    """A few images as the networks read them, float32 [B, C, H, W]: of the validation split, or noise without data."""
    data = ready.dataset
    if isinstance(ready.spec.method, DataFreeMethod):
        shape = (_LOOKED_AT, data.channels, data.image_size, data.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(ready.device)
    normalise = Normalisation(mean=data.mean, std=data.std, device=ready.device)
    return normalise(data.validation.images[:_LOOKED_AT].to(ready.device))


def run_names(phase: str, seeds: int) -> tuple[str, ...]:
    """What the trainings of a phase are called, one for each seed: the phase, and `<phase>-seed2` and so on."""
    return (phase, *(f"{phase}-seed{number}" for number in range(2, seeds + 1)))


def teaching_runs(spec: JobSpec) -> tuple[str, ...]:
    """What the trainings of the teachers are called, given ones included: `teaching`, or `teaching1` and so on."""
    count = len(spec.teachers)
    return ("teaching",) if count == 1 else tuple(f"teaching{number}" for number in range(1, count + 1))


def assisting_runs(spec: JobSpec) -> tuple[str, ...]:
    """What the trainings of the assistants are called, from the largest on: `assisting1` and so on."""
    return tuple(f"assisting{number}" for number in range(1, len(spec.assistants) + 1))


def merged(shared: Training, own: TeacherTraining | None) -> Training:
    """The recipe of the job with what a teacher or assistant sets for itself."""
    if own is None:
        return shared
    names = [name for name in TeacherTraining.model_fields if getattr(own, name) is not None]
    return shared.model_copy(update={name: getattr(own, name) for name in names})
