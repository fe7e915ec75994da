"""What every way of making images up has in common: a generator with its optimizer, and a teacher that is looked at."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillery.spec.methods import Dafl, Fast
from engine.precision import for_loss
from engine.synthesis.batch_norm import Moments, listening
from engine.synthesis.canvas import Canvas, Lecture
from engine.synthesis.generator import Generator
from engine.taps import EMBEDDING, tapped
from engine.teachers import EnsembleTeacher, FrozenTeacher, mixed_logits

LiveTeacher = FrozenTeacher | EnsembleTeacher
"""One that can be asked about images that nobody has seen before, and through which a gradient finds them."""


class Synthesiser(nn.Module, ABC):
    """Makes images up. All that it learns and remembers is in its state dict, as tensors and plain data."""

    def __init__(self, spec: Dafl | Fast, *, canvas: Canvas, lr: float, betas: tuple[float, float]) -> None:
        super().__init__()
        self.canvas = canvas
        self.generator = Generator(latent=spec.latent, canvas=canvas)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)

    @abstractmethod
    def lecture(self, plan: Lecture, *, teacher: LiveTeacher, student: nn.Module) -> Iterator[Tensor]:
        """The images of an epoch from `plan.start_batch` on, as networks read them: float32 [B, C, S, S].

        What must be made or learned for a batch is done just before it is given out.
        """
        ...

    @abstractmethod
    def gallery(self, count: int) -> Tensor:
        """At most `count` made-up images, uint8 [N, C, S, S], always the same ones."""
        ...

    def latents(self, count: int, *, draws: torch.Generator) -> Tensor:
        """Normally distributed, [B, latent], on the generator's device."""
        weight = self.generator.first.weight
        return torch.randn(count, weight.shape[1], generator=draws).to(weight.device)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizer's moments: torch keeps no optimizer in a module's state by itself."""
        return {"optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which stays as it is: an optimizer would adopt the tensors and write into them."""
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


@dataclass(frozen=True)
class Verdict:
    """What a teacher says about made-up images, with a way back to them."""

    logits: Tensor
    """[B, K]. Of several teachers the logarithm of their mean probabilities, however they merge for the student."""
    embeddings: Sequence[Tensor]
    """Of each teacher, [B, D, 1, 1]; empty when nobody asked."""
    moments: Sequence[Moments]
    """Of each batch normalisation of each teacher; empty when there is none or nobody asked."""


def verdict(teacher: LiveTeacher, images: Tensor, *, embeddings: bool = False, moments: bool = False) -> Verdict:
    """Look at the teacher while it looks at normalised images, float32 [B, C, S, S]; it stays as it is."""
    networks = _networks(teacher)
    for network in networks:
        if network.training:  # someone holds the network itself and told it to train
            network.eval()
    with ExitStack() as hooks:
        heard = [hooks.enter_context(listening(network)) for network in networks] if moments else []
        answers = [tapped(network, images, (EMBEDDING,) if embeddings else ()) for network in networks]
    return Verdict(
        logits=_together([answer.logits for answer in answers]),
        embeddings=[answer.features[EMBEDDING] for answer in answers] if embeddings else (),
        moments=[each for found in heard for each in found],
    )


def _networks(teacher: LiveTeacher) -> list[nn.Module]:
    members = teacher.members if isinstance(teacher, EnsembleTeacher) else (teacher,)
    return [member.network for member in members]


def _together(logits: Sequence[Tensor]) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    each = torch.stack([for_loss(values) for values in logits])
    return mixed_logits(each, each.new_full(each.shape[:2], 1 / len(logits)))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step. Of all that the loss depends on, only what the optimizer trains is given a gradient."""
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = torch.autograd.grad(loss, trained)
    step_along(optimizer, zip(trained, gradients, strict=True))


def step_along(optimizer: torch.optim.Optimizer, gradients: Any) -> None:
    """One step along given gradients, pairs of parameter and gradient, of which none is left behind."""
    for parameter, gradient in gradients:
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
