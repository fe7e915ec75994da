"""How far a batch's statistics are from those that a network's batch normalisation remembers of its training data.

The feature distribution regulariser R_feature of Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via
DeepInversion", CVPR 2020, section 3.2. Hooks stay on a network only as long as the block lasts, so that nothing of them
is ever copied, exported or saved.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.precision import for_loss

MOMENTUM = 0.9
"""What earlier batches count in a mean over batches: the `bn_mmt` of the published Fast-DFKD runs."""


@dataclass(frozen=True)
class Moments:
    """What one normalisation read in one forward pass, and what it remembers."""

    found: Tensor
    """[2, C]: mean and variance (divided by their number, not one less) of each channel over batch and pixels."""
    remembered: Tensor
    """[2, C]: running mean and variance; without gradient."""


@contextmanager
def listening(network: nn.Module) -> Iterator[list[Moments]]:
    """A list to which each batch normalisation over maps adds its moments, in the order of their use.

    One that remembers nothing is passed over, so that the list stays empty for a network that has none.
    """
    heard: list[Moments] = []

    def listen(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        variance, mean = torch.var_mean(for_loss(inputs[0]), dim=(0, 2, 3), correction=0)
        remembered = (module.get_buffer("running_mean"), module.get_buffer("running_var"))
        heard.append(Moments(torch.stack((mean, variance)), for_loss(torch.stack(remembered))))

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(listen).remove)
        yield heard


def distance(heard: Sequence[Moments], *, past: Sequence[Tensor] = ()) -> Tensor:
    """Σ over normalisations of ‖mean - running mean‖₂ + ‖variance - running variance‖₂; scalar, 0 when there are none.

    With the blend of earlier batches, `past`, one [2, C] for each, it is 0.9 past + 0.1 of this batch that should come
    near: a single batch may then differ from the others as long as all of them together do not.
    """
    total = torch.zeros(())
    for place, each in enumerate(heard):
        seen = torch.lerp(past[place], each.found, 1 - MOMENTUM) if past else each.found
        total = total + torch.linalg.vector_norm(seen - each.remembered, dim=1).sum()
    return total


def blended(heard: Sequence[Moments], *, past: Sequence[Tensor] = ()) -> list[Tensor]:
    """The blend of earlier batches with this one added: [2, C] for each normalisation, without gradient."""
    found = [each.found.detach() for each in heard]
    return [torch.lerp(old, new, 1 - MOMENTUM) for old, new in zip(past, found, strict=True)] if past else found
