"""Exits: classifiers behind the stages of a network, and networks of their own that end at such an exit.

Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
ICCV 2019, section 3.1 and figure 2: each shallower stage is followed by a bottleneck, which brings its map to the shape
of the deepest one, and by a linear layer of its own.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from distillery.errors import InvalidRequest, MissingDependency
from engine.adapters import Norm
from engine.evaluate import evaluating
from engine.fitting import Feature, Surveyed, survey
from engine.taps import as_map, tapped
from models import build, catalog

_MEND = "Set 'deliver_exits: false': the exits are trained all the same, and only the whole student is delivered."


class Head(nn.Module):
    """From the maps of one stage [B, C_i, H_i, W_i] to logits [B, K], through the shapes of the stages behind it.

    A step is a depthwise 3x3 convolution, a pointwise one, batch normalisation and a ReLU. Plain 3x3 convolutions would
    cost nearly nine times as much: in small networks and transformers, more than the stages that the exit spares.
    """

    def __init__(self, shapes: Sequence[Feature], *, classes: int) -> None:
        """`shapes` are those of its own stage and of all behind it, two or more."""
        super().__init__()
        self.steps = nn.ModuleList(_step(before, after) for before, after in pairwise(shapes))
        self.linear = nn.Linear(shapes[-1].channels, classes)
        self._signed = shapes[-1].signed

    def read(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The bottleneck's map in the shape of the deepest stage, [B, C, H, W], and the logits [B, K].

        The classifier reads the rectified map. What is compared with the deepest map is rectified only where that is:
        nothing behind a ReLU could equal values below zero. So the answers do not depend on the sign.
        """
        bottleneck = maps
        for step in self.steps:
            bottleneck = step(maps)
            maps = functional.relu(bottleneck)
        return bottleneck if self._signed else maps, self.linear(maps.mean((2, 3)))

    def forward(self, maps: Tensor) -> Tensor:
        """Logits [B, K]."""
        return self.read(maps)[1]


def _step(before: Feature, after: Feature) -> nn.Sequential:
    """From the shape of one stage to that of the next. Sizes that are neither equal nor half are pooled to fit."""
    halved = before.size > 1 and after.size == (before.size + 1) // 2
    fits = halved or before.size == after.size
    channels, stride = before.channels, 2 if halved else 1
    return nn.Sequential(
        nn.Identity() if fits else nn.AdaptiveAvgPool2d(after.size),
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, after.channels, 1, bias=False),
        Norm(after.channels),
    )


@dataclass(frozen=True, eq=False)
class Answers:
    """What every classifier says of B images, shallow to deep; the last one is the network's own."""

    logits: tuple[Tensor, ...]
    """Each [B, K]."""
    maps: tuple[Tensor, ...]
    """Each [B, C, H, W], the shape of the deepest stage: those of the bottlenecks, and last that stage's own."""


class WithExits(nn.Module):
    """A network with a head behind each of its stages but the last."""

    def __init__(self, network: nn.Module, surveyed: Surveyed, *, classes: int) -> None:
        """`surveyed` is what `engine.fitting.survey` found of the network's stages.

        Raises:
            InvalidRequest: it has a single stage.
        """
        super().__init__()
        *shallow, deepest = surveyed.stages
        if not shallow:
            raise InvalidRequest(
                "The student has a single stage: there is none before it that it could teach.",
                hint="Choose a student of several stages, such as resnet20.",
                pointer="/student/architecture",
            )
        self.network = network
        self.stages = tuple(shallow)
        """The stages with an exit. Exits are numbered from 1, the shallowest."""
        self._deepest = deepest
        shapes = [surveyed.features[stage] for stage in surveyed.stages]
        self.heads: Any = nn.ModuleList(Head(shapes[place:], classes=classes) for place in range(len(shallow)))

    def forward(self, images: Tensor) -> Tensor:
        """The network's own logits [B, K] of images [B, C, H, W]; no head is asked."""
        logits: Tensor = self.network(images)
        return logits

    def answers(self, images: Tensor) -> Answers:
        """What every classifier says of images [B, C, H, W], from one forward of the network."""
        found = tapped(self.network, images, (*self.stages, self._deepest))
        read = [head.read(found.features[stage]) for stage, head in zip(self.stages, self.heads, strict=True)]
        return Answers(
            logits=(*(logits for _, logits in read), found.logits),
            maps=(*(bottleneck for bottleneck, _ in read), found.features[self._deepest]),
        )

    def delivered(self) -> dict[str, Tensor]:
        """The weights of the plain network, under its own names."""
        return self.network.state_dict()

    def at(self, number: int) -> tuple[str, Head]:
        """The stage and the head of an exit.

        Raises:
            InvalidRequest: there is no exit of that number.
        """
        if not 1 <= number <= len(self.stages):
            raise InvalidRequest(
                f"There is no exit {number}.", hint=f"The network has the exits 1 to {len(self.stages)}."
            )
        head: Head = self.heads[number - 1]
        return self.stages[number - 1], head


class AtExit(nn.Module):
    """An exit in the midst of its network, whose weights it shares: for a look at it while it is trained."""

    def __init__(self, whole: WithExits, number: int) -> None:
        """
        Raises:
            InvalidRequest: there is no exit of that number.
        """
        super().__init__()
        self._stage, self.head = whole.at(number)
        self.network = whole.network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.head(tapped(self.network, images, (self._stage,)).features[self._stage])
        return logits


class EarlyExit(nn.Module):
    """A network of its own that ends at an exit, made for answering only: it behaves alike in training mode."""

    def __init__(self, trunk: nn.Module, head: Head, *, stage: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self._stage = stage
        self.eval()

    def train(self, mode: bool = True) -> "EarlyExit":
        """Stay in evaluation mode: the trunk was written down as it answers."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.head(as_map(self.trunk(images), layer=self._stage))
        return logits


def early_exit(whole: WithExits, number: int) -> EarlyExit:
    """What exit `number`, counted from 1, needs and nothing else, with its own copy of the weights.

    Raises:
        InvalidRequest: there is no exit of that number, or the network cannot be cut there.
        MissingDependency: torchvision is not installed.
    """
    stage, head = whole.at(number)
    with evaluating(whole):
        return copy.deepcopy(EarlyExit(_cut(whole.network, stage), head, stage=stage))


def require_early_exits(whole: WithExits) -> None:
    """Whether every exit could be delivered as a network of its own, found out without copying weights.

    Raises:
        InvalidRequest: the network cannot be cut behind a stage.
        MissingDependency: torchvision is not installed.
    """
    with evaluating(whole):
        for stage in whole.stages:
            _cut(whole.network, stage)


def rebuild_exit(architecture: str, number: int, *, classes: int, image_size: int, channels: int) -> EarlyExit:
    """An early exit as `early_exit` makes it, with fresh weights: to be filled from a file by what its header says.

    Raises:
        UnknownName: the catalogue has no such network.
        InvalidRequest: it has no such exit, cannot be cut there, or cannot take such images.
        MissingDependency: torchvision is not installed.
    """
    network = build(architecture, classes=classes, image_size=image_size, channels=channels)
    images = torch.zeros(1, channels, image_size, image_size)
    surveyed = survey(network, images, stages=catalog.find(architecture).stages)
    return early_exit(WithExits(network, surveyed, classes=classes), number)


def _cut(network: nn.Module, stage: str) -> fx.GraphModule:
    """The network up to the output of a stage, as it computes in evaluation mode; it shares the weights.

    The flags of the shared modules change with it: the caller brings them back.
    """
    try:
        from torchvision.models.feature_extraction import create_feature_extractor
    except ImportError:
        raise MissingDependency("torchvision is not installed.", hint="pip install torchvision") from None
    try:
        traced = create_feature_extractor(network, {stage: stage}, suppress_diff_warning=True)
    except Exception as failed:  # a forward that runs on stand-ins for tensors may raise anything
        raise InvalidRequest(
            f"{type(network).__name__} cannot be cut behind '{stage}' into an early exit: "
            f"{str(failed).strip().partition(chr(10))[0]}",
            hint=_MEND,
            pointer="/method/deliver_exits",
        ) from failed
    graph: fx.Graph = traced.eval_graph
    results: Any = graph.output_node().args[0]  # a dictionary of nodes by the names that were asked for
    _end_at(graph, results[stage])
    return fx.GraphModule(traced, graph)


def _end_at(graph: fx.Graph, last: fx.Node) -> None:
    """Let the graph give the value of `last`, and drop all that comes later.

    Nothing that asserts something counts as unused, so that torchvision alone would leave most of a transformer in.
    """
    end = graph.output_node()
    end.args = (last,)
    for node in reversed(list(graph.nodes)):
        if node is last:
            break
        if node is not end:
            graph.erase_node(node)
    graph.eliminate_dead_code()
