"""Online: networks that are trained side by side, each from the labels and from what the others say at that moment.

Zhang et al., "Deep Mutual Learning", CVPR 2018, algorithm 1: one forward of each network, then a step of each. One
optimizer over all of them does the same, since nothing that one says carries a gradient into another.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.data.views import Batch
from engine.lesson import Lesson
from engine.objectives import Objective
from engine.outputs import Outputs
from engine.taps import tapped

STUDENT = "student"


class Peers(nn.Module):
    """Networks by name, among them `student`, whose answers are those of the whole."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.peers = nn.ModuleDict(dict(networks))

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.peers[STUDENT](images)
        return logits


def state_of(peer: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the weights of all peers, those of one, under the names of its own network."""
    prefix = f"peers.{peer}."
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


class Online(Lesson):
    """Peers, and for each what it learns from each of the others.

    `objectives[learner][other]` is fitted to that pair; of several others the mean of each term counts. A learner that
    nobody teaches has the single entry `""`, an objective of labels alone.
    """

    network: Peers

    def __init__(self, peers: Peers, *, objectives: Mapping[str, Mapping[str, Objective]]) -> None:
        parts = {learner: nn.ModuleDict(_named(others)) for learner, others in objectives.items()}
        super().__init__(peers, objective=nn.ModuleDict(parts))
        self._objectives = objectives
        self._layers = {name: self._read_of(name) for name in peers.peers}

    def _read_of(self, peer: str) -> tuple[str, ...]:
        """The layers of a peer that any objective reads, as learner or as teacher."""
        own = [each.student_layers for other, each in self._objectives[peer].items() if other]
        taught = [
            each.teacher_layers()
            for others in self._objectives.values()
            for name, each in others.items()
            if name == peer
        ]
        return tuple(dict.fromkeys(layer for layers in (*own, *taught) for layer in layers))

    def learners(self) -> list[list[nn.Parameter]]:
        """Each peer with what its objectives train: their gradients are clipped apart, as two optimizers would."""
        objectives: Any = self.objective
        return [
            [each for part in (network, objectives[name]) for each in part.parameters() if each.requires_grad]
            for name, network in self.network.peers.items()
        ]

    def forward(self, batch: Batch) -> dict[str, Outputs]:
        """What each peer says of the same view."""
        return {name: tapped(peer, batch.images, self._layers[name]) for name, peer in self.network.peers.items()}

    def terms(self, answers: dict[str, Outputs], batch: Batch) -> dict[str, Tensor]:
        """The student's terms by their names, those of a teacher as `<teacher>/<term>`."""
        raw: dict[str, Tensor] = {}
        for learner, others in self._objectives.items():
            found = [
                objective(answers[learner], _detached(answers[other]) if other else None, batch)
                for other, objective in others.items()
            ]
            for name in found[0]:
                raw[_told(learner, name)] = torch.stack([each[name] for each in found]).mean()
        return raw

    def weights(self, epoch: int) -> Mapping[str, float]:
        """Those of the objectives; of one learner they are all equal."""
        return {
            _told(learner, name): weight
            for learner, others in self._objectives.items()
            for name, weight in next(iter(others.values())).weights_in(epoch).items()
        }

    def companions(self) -> Mapping[str, nn.Module]:
        """The teachers."""
        return {name: peer for name, peer in self.network.peers.items() if name != STUDENT}

    def shared(self) -> nn.Module:
        """The student."""
        return self.network.peers[STUDENT]

    def meeting_terms(self) -> tuple[str, ...]:
        """Those of the student."""
        return tuple(next(iter(self._objectives[STUDENT].values())).weights)


def _named(others: Mapping[str, Objective]) -> dict[str, nn.Module]:
    return {other or "labels": each for other, each in others.items()}


def _told(learner: str, term: str) -> str:
    return term if learner == STUDENT else f"{learner}/{term}"


def _detached(outputs: Outputs) -> Outputs:
    """The same without a way back: nobody is trained to be a better example."""
    features = {layer: value.detach() for layer, value in outputs.features.items()}
    return Outputs(logits=outputs.logits.detach(), features=features)
