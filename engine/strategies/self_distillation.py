"""Self-distillation: the deepest classifier of a network teaches classifiers on its shallower stages.

Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
ICCV 2019, section 3.2.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distillery.spec.methods import SelfDistillationMethod
from engine.data.views import Batch
from engine.exits import Answers, AtExit, WithExits, require_early_exits
from engine.lesson import Lesson
from engine.objectives.cross_entropy import cross_entropy
from engine.objectives.soft_targets import soft_targets
from engine.precision import for_loss


def feature_distance(bottleneck: Tensor, deepest: Tensor) -> Tensor:
    """(1/B)·Σ (f_i - f_deep)², the sum over channels and pixels (section 3.2, loss source 3). Scalar, in float32.

    Both maps are [B, C, H, W]. Such a sum grows with the size of the maps, hence the usual weight of 1e-6.
    """
    return (for_loss(bottleneck) - for_loss(deepest)).square().sum() / len(deepest)


class SelfDistillation(Lesson):
    """A network with exits: all its classifiers learn the labels, the shallower ones also from the deepest."""

    network: WithExits

    def __init__(self, network: WithExits, *, method: SelfDistillationMethod) -> None:
        """
        Raises:
            InvalidRequest: early exits are to be delivered, and the network cannot be cut behind its stages.
            MissingDependency: likewise, and torchvision is not installed.
        """
        super().__init__(network, objective=nn.Module())
        if method.deliver_exits:
            require_early_exits(network)
        self._method = method

    def forward(self, batch: Batch) -> Answers:
        """What every classifier says."""
        return self.network.answers(batch.images)

    def terms(self, answers: Answers, batch: Batch) -> dict[str, Tensor]:
        """`cross_entropy` over all classifiers, `soft_targets` and `hint` over the exits, each a sum (section 3.2).

        What the deepest says is detached: it learns from the labels alone.
        """
        method = self._method
        *exits, teacher = answers.logits
        *bottlenecks, target = answers.maps
        hard = [cross_entropy(z, batch.labels, label_smoothing=method.label_smoothing) for z in answers.logits]
        soft = [soft_targets(z, teacher.detach(), temperature=method.temperature) for z in exits]
        hints = [feature_distance(each, target.detach()) for each in bottlenecks]
        return {
            "cross_entropy": torch.stack(hard).sum(),
            "soft_targets": torch.stack(soft).sum(),
            "hint": torch.stack(hints).sum(),
        }

    def weights(self, epoch: int) -> Mapping[str, float]:
        """Those of the method, the same in every epoch."""
        method = self._method
        return {"cross_entropy": method.hard_weight, "soft_targets": method.soft_weight, "hint": method.hint_weight}

    def companions(self) -> Mapping[str, nn.Module]:
        """`exit1` and so on, from the shallowest."""
        numbers = range(1, len(self.network.stages) + 1)
        return {f"exit{number}": AtExit(self.network, number) for number in numbers}

    def shared(self) -> nn.Module:
        """The network itself; no head is shared."""
        return self.network.network
