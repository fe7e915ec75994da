"""How much memory a graph takes, told by shape inference on a copy without its weights."""

import math
from collections.abc import Mapping
from typing import Any

from engine.intake import onnx_folding
from engine.intake.onnx_operators import GENERATORS
from engine.intake.onnx_refusals import hostile, unusable

MOST_ELEMENTS = 1 << 26
"""Of one tensor that is computed for one image: 256 MiB of float32."""
MOST_ELEMENTS_IN_ALL = 1 << 29
"""Of all tensors that are computed for one image."""
_MOST_TIMES = 64
"""A graph of a large fixed batch may not take so many times as much as one of one image."""
_SMALL = onnx_folding.MOST_ELEMENTS
"""Constants of so many elements at most are kept for shape inference, which reads shapes from them."""
_ROUNDS = 6
"""Of shape inference: each may tell sizes from which further shapes follow."""


def require_small(model: Any, *, images: str, shape: tuple[int, ...]) -> None:
    """No tensor that is computed for one image takes more memory than a network of images needs.

    `images` is the name of the input, and `shape` that of what it is given.

    Raises:
        HostileFile: one does.
        UnusableWeights: that cannot be told beforehand, or shapes contradict each other.
    """
    sizes = _sizes(model, images=images, shape=shape)
    allowed = min(shape[0], _MOST_TIMES)
    total = 0
    for node in model.graph.node:
        for name in filter(None, node.output):
            size = sizes.get(name)
            if size is None:
                if node.op_type in GENERATORS:
                    raise unusable(
                        f"how much a node '{node.op_type}' gives cannot be told beforehand",
                        hint="Export it with constant sizes; only the batch may vary.",
                    )
                continue
            total += size
            if size > MOST_ELEMENTS * allowed:
                raise hostile(f"a node '{node.op_type}' gives {size:,} numbers for {allowed} images")
    if total > MOST_ELEMENTS_IN_ALL * allowed:
        raise hostile(f"its nodes give {total:,} numbers for {allowed} images")


def _sizes(model: Any, *, images: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """How many numbers each name stands for; names are left out where that cannot be told."""
    light = _without_weights(model, images=images, shape=shape)
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(_ROUNDS):
        before = len(shapes)
        shapes = _inferred(light)
        known = onnx_folding.folded(light.graph, shapes=shapes)
        _settle(light.graph, known)
        if len(shapes) == before:
            break
    return {name: math.prod(sizes) for name, sizes in shapes.items()}


def _inferred(light: Any) -> dict[str, tuple[int, ...]]:
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except MemoryError:
        raise hostile("its shapes unfold to more than there is memory") from None
    except Exception as error:  # onnx raises errors without a common root
        raise unusable(
            f"its shapes contradict each other ({str(error).splitlines()[0][:200]})", hint="Export it again."
        ) from None
    told = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    shapes = {each.name: sizes for each in told if (sizes := _dims(each)) is not None}
    constants = {each.name: tuple(map(int, each.dims)) for each in inferred.graph.initializer}
    return {**shapes, **constants}


def _settle(graph: Any, known: Mapping[str, Any]) -> None:
    """Put what was worked out in place of the nodes that give it, so that shape inference can read it."""
    from onnx import numpy_helper

    given = {each.name for each in graph.initializer}
    nodes = [each for each in graph.node if len(each.output) != 1 or each.output[0] not in known]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in known.items() if name not in given)
    del graph.node[:]
    graph.node.extend(nodes)


def _dims(info: Any) -> tuple[int, ...] | None:
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    if not all(each.HasField("dim_value") and each.dim_value >= 0 for each in dims):
        return None
    return tuple(int(each.dim_value) for each in dims)


def _without_weights(model: Any, *, images: str, shape: tuple[int, ...]) -> Any:
    """The graph with its input's shape settled, large constants as mere inputs, and no shapes that it claims itself."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "light"
    graph.node.extend(model.graph.node)
    constants = {each.name for each in model.graph.initializer}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for each in model.graph.input:
        if each.name == images:
            kind = each.type.tensor_type.elem_type
            graph.input.append(onnx.helper.make_tensor_value_info(images, kind, list(shape)))
    for each in model.graph.output:
        if each.name not in constants:
            plain = graph.output.add(name=each.name)
            if each.type.HasField("tensor_type"):
                plain.type.tensor_type.elem_type = each.type.tensor_type.elem_type
            else:
                plain.type.CopyFrom(each.type)
    return light
