"""What a model that was brought along is: found in its file, tried on images, and measured where there is data."""

from engine.inspection import graph, network, table
from engine.inspection.subject import Inspected, Subject

__all__ = ["Inspected", "Subject", "inspect"]


def inspect(subject: Subject, *, kind: str) -> Inspected:
    """Look into a file of one of the kinds that `engine.intake.weights` takes.

    Raises:
        distillery.errors.DistilleryError: it cannot teach; what is wrong, where, and how to mend it.
    """
    if kind == "safetensors":
        return network.inspect(subject)
    return graph.inspect(subject) if kind == "onnx" else table.inspect(subject)
