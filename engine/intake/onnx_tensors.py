"""Whether the constants of a graph are what they claim to be."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from engine.intake.onnx_refusals import hostile, unusable

MOST_NUMBERS = 2_000_000_000
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FIELDS = {
    1: "float_data", 11: "double_data", 7: "int64_data", 12: "uint64_data", 13: "uint64_data", 8: "string_data",
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data"),
}  # fmt: skip
_STRINGS = 8
_TENSOR_ATTRIBUTES = (4, 9)


def tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of constants in a graph."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in _TENSOR_ATTRIBUTES or attribute.HasField("t") or attribute.tensors:
                yield attribute.t
                yield from attribute.tensors


def require_whole(tensor: Any) -> None:
    """The numbers of a tensor lie in the file, and are as many as its shape says.

    Raises:
        HostileFile: they are not.
        UnusableWeights: they are of a kind that is not read.
    """
    name = tensor.name[:80]
    if tensor.data_location or tensor.external_data:
        raise hostile(f"the tensor '{name}' lies in another file")
    if tensor.HasField("segment"):
        raise hostile(f"the tensor '{name}' comes in segments")
    count = _count(tensor.dims, name)
    kind = tensor.data_type
    if kind not in _FIELDS and not (kind == 0 and count == 0):
        if kind == 0 and not tensor.dims:
            return  # an attribute of another type has an empty one
        raise unusable(f"the tensor '{name}' has numbers of a kind that is not read", hint="Use float32.")
    if tensor.raw_data or count == 0 or kind == 0:
        found, wanted = len(tensor.raw_data), count * _BYTES.get(kind, 0)
        if kind == _STRINGS and tensor.raw_data:
            raise hostile(f"the tensor '{name}' of strings is given as bytes")
    else:
        found, wanted = len(getattr(tensor, _FIELDS[kind])), count
        if not tensor.dims and kind == 1 and not found:
            return  # the empty tensor of an attribute of another type
    if found != wanted:
        raise hostile(f"the tensor '{name}' promises {wanted:,} and holds {found:,}")


def _count(dims: Sequence[int], name: str) -> int:
    if len(dims) > 16 or any(size < 0 for size in dims):
        raise hostile(f"the tensor '{name}' has an impossible shape")
    count = math.prod(dims)
    if count > MOST_NUMBERS:
        raise hostile(f"the tensor '{name}' promises {count:,} numbers")
    return count
