"""Who is trained, on what: the one thing that strategies give to the loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillery.spec.training import Training
from engine.data.dataset import Dataset
from engine.data.views import Batch, batch_count, batches
from engine.precision import memory_format
from engine.taps import classifier
from engine.teachers import FrozenTeacher


class Lesson(ABC):
    """A network in training, what it is taught by, and what else must be trained or remembered for that.

    A strategy overrides what it does otherwise. Whatever decides what is learned is a function of (seed, epoch, batch),
    of `network` and of `objective`: these two are saved, so that a resumed run goes on as if it had never stopped.
    """

    chooses_best: ClassVar[bool] = True
    """Whether the best epoch is chosen on the validation split; if not, the last is kept and nothing is validated."""

    def __init__(self, network: nn.Module, *, objective: nn.Module) -> None:
        self.network = network
        """Trained and delivered: images [B, C, H, W] to logits [B, K]."""
        self.objective = objective
        """Trained or remembered along with it, saved, and never delivered: adapters, banks, generators."""
        self.meanwhile: Callable[[], object] = lambda: None
        """Called now and then in the middle of long work in `batches`; the loop tells by it that the run goes on."""
        self.views: int | None = None
        """How many views of an image are shown; None for every view that the augmentation can draw."""
        self.teacher: Any = None
        """Who frozen answers the batches of a given data set, where somebody does."""
        self.remark = ""
        """What should be told of how it is taught."""

    def prepare(self, device: torch.device) -> torch.memory_format:
        """Bring everything to its device and layout; gives the layout of the images."""
        layout = memory_format(self.network)
        self.network.to(device).to(memory_format=layout)
        self.objective.to(device)
        return layout

    def learners(self) -> list[list[nn.Parameter]]:
        """What the optimizer trains, in groups of which each has its own gradient clipped."""
        return [[each for part in (self.network, self.objective) for each in part.parameters() if each.requires_grad]]

    def batch_count(self, dataset: Dataset, recipe: Training) -> int:
        """Optimizer steps of an epoch."""
        return batch_count(len(dataset.train), batch_size=recipe.batch_size)

    def batches(
        self, dataset: Dataset, recipe: Training, *, epoch: int, start_batch: int, augment: tuple[str, ...], layout: Any
    ) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from `start_batch` on: those of the training split."""
        if recipe.seed is None:
            raise AssertionError("The loop refuses a recipe without a seed.")
        return batches(
            dataset.train,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            augment=augment,
            mean=dataset.mean,
            std=dataset.std,
            views=self.views,
            start_batch=start_batch,
            channels_last=layout == torch.channels_last,
        )

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Everything that runs in the recipe's precision: the forward passes. What it gives goes to `terms`."""
        ...

    @abstractmethod
    def terms(self, answers: Any, batch: Batch) -> dict[str, Tensor]:
        """Each loss by its name, unweighted, in float32."""
        ...

    @abstractmethod
    def weights(self, epoch: int) -> Mapping[str, float]:
        """What each loss counts in an epoch, counted from 0."""
        ...

    def frozen_teachers(self) -> tuple[FrozenTeacher, ...]:
        """Those that may answer in another form than the network itself (`engine.teacher_forms`)."""
        return ()

    def never_compiled(self) -> str:
        """Why the student's forward pass cannot be compiled, whatever the machine; empty when it can."""
        return "the method reads more of its networks than the logits of one forward pass."

    def ask_student_by(self, ask: Callable[[Tensor], Tensor] | None) -> None:
        """From now on ask the student by this in training; None is the network itself.

        Raises:
            ValueError: it cannot be; see `never_compiled`.
        """
        if ask is not None:
            raise ValueError(self.never_compiled())

    def companions(self) -> Mapping[str, nn.Module]:
        """Other networks whose accuracy on the validation split is worth a curve, by name."""
        return {}

    def shared(self) -> nn.Module:
        """The network on whose weights the terms meet."""
        return self.network

    def trunk(self) -> list[nn.Parameter]:
        """The weights on which the terms meet: without the last layer, which terms of features do not reach."""
        last = {id(each) for each in classifier(self.shared()).parameters()}
        return [each for each in self.shared().parameters() if each.requires_grad and id(each) not in last]

    def meeting_terms(self) -> tuple[str, ...] | None:
        """The names of the terms that reach the trunk; None when all of them do."""
        return None

    def keepsakes(self) -> dict[str, Tensor]:
        """Tensors on the CPU that are worth showing when the run has ended, by name."""
        return {}
