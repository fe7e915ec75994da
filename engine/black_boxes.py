"""What can be told of a network that may be a black box, or several of which one is."""

from torch import nn

from engine.answers_table import AnswersTable
from engine.black_box import OnnxNetwork
from engine.teachers import Ensemble
from models import count


def members(network: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble; of any other, itself."""
    return list(network.members) if isinstance(network, Ensemble) else [network]


def holds_table(network: nn.Module) -> bool:
    """Whether it, or one of its members, is a table of answers, which reads no images."""
    return any(isinstance(each, AnswersTable) for each in members(network))


def holds_graph(network: nn.Module) -> bool:
    """Whether it, or one of its members, is an ONNX graph."""
    return any(isinstance(each, OnnxNetwork) for each in members(network))


def is_opaque(network: nn.Module) -> bool:
    """Whether its weights are no tensors of ours."""
    return holds_table(network) or holds_graph(network)


def parameters(network: nn.Module) -> int | None:
    """How many there are; None where a table is among it."""
    if holds_table(network):
        return None
    return sum(
        each.parameter_count() if isinstance(each, OnnxNetwork) else count.parameters(each) for each in members(network)
    )


def multiply_adds(network: nn.Module, *, channels: int, image_size: int) -> int | None:
    """Of one image; None where a black box is among it."""
    if is_opaque(network):
        return None
    return count.multiply_adds(network, channels=channels, image_size=image_size)
