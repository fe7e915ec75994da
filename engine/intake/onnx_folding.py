"""The small whole numbers from which a graph makes its shapes: worked out here, so that sizes are known beforehand.

Exporters write shapes as little programs of slices and concatenations. Only tensors of a thousand numbers at most are
looked at; whatever is larger, or of another kind, stays unknown.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_ELEMENTS = 1024
_KINDS = {6: np.int32, 7: np.int64, 9: np.bool_, 1: np.float32}
"""ONNX's numbers of the types that shapes are made with."""
Array = NDArray[Any]
Step = Callable[[list[Array], Mapping[str, Any]], Array | None]


def folded(graph: Any, *, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Every small tensor that follows from the constants of `graph` and from `shapes`, by name."""
    from onnx import numpy_helper

    known = {
        each.name: numpy_helper.to_array(each)
        for each in graph.initializer
        if each.data_type in _KINDS and np.prod(each.dims, dtype=object) <= MOST_ELEMENTS
    }
    for node in graph.node:
        if len(node.output) != 1 or node.domain not in ("", "ai.onnx"):
            continue
        found = _result(node, known, shapes)
        if found is not None and found.size <= MOST_ELEMENTS:
            known[node.output[0]] = found
    return known


def _result(node: Any, known: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> Array | None:
    told = _attributes(node)
    if node.op_type == "Shape" and node.input and node.input[0] in shapes:
        whole = np.array(shapes[node.input[0]], dtype=np.int64)
        return whole[told.get("start", 0) : told.get("end", len(whole))]
    step = _STEPS.get(node.op_type)
    if step is None or not all(name in known for name in node.input if name):
        return None
    given = [known[name] for name in node.input if name]
    try:
        with np.errstate(all="ignore"):
            return step(given, told)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, KeyError):
        return None  # a faulty node is told by shape inference, or by the runtime


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _constant(_given: list[Array], told: Mapping[str, Any]) -> Array | None:
    from onnx import numpy_helper

    if "value" in told:
        tensor = told["value"]
        small = tensor.data_type in _KINDS and np.prod(tensor.dims, dtype=object) <= MOST_ELEMENTS
        return np.asarray(numpy_helper.to_array(tensor)) if small else None
    for name in ("value_int", "value_ints"):
        if name in told:
            return np.array(told[name], dtype=np.int64)
    return None


def _constant_of_shape(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    shape = [int(each) for each in given[0]]
    if np.prod(shape, dtype=object) > MOST_ELEMENTS or min(shape, default=0) < 0:
        return None
    filler = _constant([], told)
    return np.full(
        shape, 0.0 if filler is None else filler.reshape(-1)[0], dtype=None if filler is None else filler.dtype
    )


def _slice(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    starts, ends = (given[1], given[2]) if len(given) > 2 else (told["starts"], told["ends"])
    axes = given[3] if len(given) > 3 else told.get("axes", range(len(starts)))
    steps = given[4] if len(given) > 4 else [1] * len(starts)
    where = [slice(None)] * given[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end before the beginning is how exporters say "down to the first".
        last = None if step < 0 and end < -given[0].shape[axis] else int(end)
        where[int(axis)] = slice(int(start), last, int(step))
    return given[0][tuple(where)]


def _reshape(given: list[Array], _told: Mapping[str, Any]) -> Array | None:
    sizes = [given[0].shape[place] if size == 0 else int(size) for place, size in enumerate(given[1])]
    return given[0].reshape(sizes)


def _cast(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    return given[0].astype(_KINDS[told["to"]])


def _unsqueeze(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    return np.expand_dims(given[0], tuple(int(each) for each in (given[1] if len(given) > 1 else told["axes"])))


def _squeeze(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    axes = given[1] if len(given) > 1 else told.get("axes")
    return np.squeeze(given[0], None if axes is None else tuple(int(each) for each in axes))


def _div(given: list[Array], _told: Mapping[str, Any]) -> Array | None:
    whole = given[0].dtype.kind in "iu"
    return given[0] // given[1] if whole else given[0] / given[1]


def _transpose(given: list[Array], told: Mapping[str, Any]) -> Array | None:
    return np.transpose(given[0], told.get("perm"))


_STEPS: Mapping[str, Step] = {
    "Add": lambda given, _: _bounded(np.add, given),
    "Cast": _cast,
    "Ceil": lambda given, _: np.ceil(given[0]),
    "Concat": lambda given, told: np.concatenate(given, axis=told["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _div,
    "Equal": lambda given, _: _bounded(np.equal, given),
    "Floor": lambda given, _: np.floor(given[0]),
    "Gather": lambda given, told: np.take(given[0], given[1], axis=told.get("axis", 0)),
    "Identity": lambda given, _: given[0],
    "Mul": lambda given, _: _bounded(np.multiply, given),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": lambda given, _: _bounded(np.subtract, given),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda given, _: np.where(*given) if np.broadcast(*given).size <= MOST_ELEMENTS else None,
}


def _bounded(step: Any, given: list[Array]) -> Array | None:
    """Nothing, where two small tensors would unfold to a large one."""
    return np.asarray(step(*given)) if np.broadcast(*given).size <= MOST_ELEMENTS else None
