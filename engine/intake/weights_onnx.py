"""Is this ONNX graph one that may be run? Looked at from its bytes, before any runtime sees it, and without torch.

Everything that could be large is estimated by shape inference on a copy without its weights.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillery.errors import HostileFile, MissingDependency, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.intake import onnx_folding, onnx_trees
from engine.intake.onnx_operators import GENERATORS, LEARNED, OPERATORS

MOST_BYTES = 2_000_000_000
"""A graph in one file is a protobuf message."""
MOST_NODES = 10_000
MOST_TENSORS = 100_000
MOST_OUTPUTS = 64
MOST_ELEMENTS = 1 << 26
"""Of one tensor that is computed for one image: 256 MiB of float32."""
MOST_ELEMENTS_IN_ALL = 1 << 29
"""Of all tensors that are computed for one image."""
MOST_BATCH = 4096
_MOST_TIMES = 64
"""A graph of a large fixed batch may not take so many times as much as one of one image."""
_SMALL = onnx_folding.MOST_ELEMENTS
"""Constants of so many elements at most are kept for shape inference, which reads shapes from them."""
_ROUNDS = 6
"""Of shape inference: each may tell sizes from which further shapes follow."""
_OPSETS = {"": range(7, 100), "ai.onnx": range(7, 100), "ai.onnx.ml": range(1, 100)}
_INPUTS = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}
"""ONNX's numbers of the types that images may have."""
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FIELDS = {
    1: "float_data", 11: "double_data", 7: "int64_data", 12: "uint64_data", 13: "uint64_data", 8: "string_data",
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data"),
}  # fmt: skip
_STRINGS = 8
_GRAPH_ATTRIBUTES = (5, 10)
_SPARSE_ATTRIBUTES = (11, 12)
_TENSOR_ATTRIBUTES = (4, 9)
_WHERE = "/uploads"


@dataclass(frozen=True)
class Graph:
    """What a graph takes and gives."""

    input: str
    dtype: str
    """`float32`, `float16`, `float64` or `uint8`."""
    shape: tuple[int | None, ...]
    """Of the input, the batch first; None where it takes any."""
    batch: int | None
    """The one batch size that it takes; None where it takes any."""
    outputs: tuple[str, ...]
    """Those that are tensors or, of scikit-learn, dictionaries."""
    parameters: int
    """Numbers in its constants and trees."""
    nodes: int
    zipped: tuple[int | str, ...] = ()
    """Of scikit-learn's dictionaries, the keys in the order of the classes."""
    class_names: tuple[str, ...] = ()
    """Where the graph tells them."""


def require_size(size_bytes: int) -> None:
    """
    Raises:
        UnusableWeights: no graph of so many bytes can be read.
    """
    if size_bytes > MOST_BYTES:
        raise UnusableWeights(
            f"The ONNX file has {size_bytes:,} bytes; a graph in one file has at most {MOST_BYTES:,}.",
            hint="Export a smaller network, or send its weights as safetensors.",
            pointer=_WHERE,
        )


def check(content: bytes, *, preprocessing: Preprocessing | None = None) -> Graph:
    """What the graph takes and gives. `preprocessing` tells the size of images where the graph does not.

    Raises:
        HostileFile: reading or running it would do harm.
        UnusableWeights: it is no ONNX graph, or has parts that are not run here.
        MissingDependency: onnx is not installed.
    """
    require_size(len(content))
    model = _parsed(content)
    _require_plain(model)
    _require_operators(model)
    _require_order(model.graph)
    for tensor in _tensors(model.graph):
        _require_whole(tensor)
    images = _input(model.graph)
    shape = _shape(images)
    _require_small(model, images=images.name, shape=_filled(shape, preprocessing))
    zipped, names = _classes(model.graph)
    return Graph(
        input=images.name,
        dtype=_INPUTS[images.type.tensor_type.elem_type],
        shape=shape,
        batch=shape[0],
        outputs=tuple(each.name for each in model.graph.output),
        parameters=_parameters(model.graph),
        nodes=len(model.graph.node),
        zipped=zipped,
        class_names=names,
    )


def _parsed(content: bytes) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingDependency("onnx is not installed.", hint="pip install onnx") from None
    try:
        model = onnx.ModelProto.FromString(content)
    except MemoryError:
        raise _hostile("its message unfolds to more than the memory that a file of its size may take") from None
    except Exception as error:  # protobuf's errors have no root of their own
        raise UnusableWeights(
            f"This is no ONNX graph: {str(error).splitlines()[0][:200]}.",
            hint="Export the network with torch.onnx.export, skl2onnx, tf2onnx or jax2onnx.",
            pointer=_WHERE,
        ) from None
    if not model.HasField("graph") or not model.graph.node or not model.graph.output:
        raise UnusableWeights(
            "The file holds no ONNX graph with nodes and outputs.", hint="Export it again.", pointer=_WHERE
        )
    return model


def _require_plain(model: Any) -> None:
    """Nothing but one graph of known operator sets."""
    if model.functions:
        raise _unusable(
            f"it holds {len(model.functions)} local functions",
            hint="Inline them: onnx.inliner.inline_local_functions(model).",
        )
    if model.training_info:
        raise _unusable("it holds training graphs", hint="Export it for inference.")
    for opset in model.opset_import:
        if opset.domain not in _OPSETS:
            raise _hostile(f"it asks for operators of the domain '{opset.domain[:80]}', which could be any code")
        if opset.version not in _OPSETS[opset.domain]:
            raise _unusable(f"it asks for version {opset.version} of the operators", hint="Export with opset 13 to 21.")
    graph = model.graph
    if graph.sparse_initializer:
        raise _hostile("it holds sparse tensors, which can unfold to any size")
    for what, count, most in (
        ("nodes", len(graph.node), MOST_NODES),
        ("tensors", len(graph.initializer), MOST_TENSORS),
        ("outputs", len(graph.output), MOST_OUTPUTS),
        ("inputs", len(graph.input), MOST_TENSORS),
    ):
        if count > most:
            raise _hostile(f"it has {count:,} {what}; {most:,} are read at most")


def _require_operators(model: Any) -> None:
    for node in model.graph.node:
        known = {"": OPERATORS, "ai.onnx": OPERATORS, "ai.onnx.ml": LEARNED}.get(node.domain)
        if known is None:
            raise _hostile(f"a node is of the domain '{node.domain[:80]}', whose operators could be any code")
        if node.op_type not in known:
            raise _unusable(
                f"it uses the operator '{node.op_type[:80]}', which is not run here",
                hint="Export it without control flow, sequences, strings, randomness and sizes that depend on values.",
            )
        for attribute in node.attribute:
            if attribute.type in _GRAPH_ATTRIBUTES or attribute.graphs or attribute.HasField("g"):
                raise _hostile(f"the node '{node.op_type}' holds graphs within the graph")
            if attribute.type in _SPARSE_ATTRIBUTES or attribute.HasField("sparse_tensor"):
                raise _hostile("it holds sparse tensors, which can unfold to any size")
            if attribute.ref_attr_name:
                raise _hostile("an attribute refers to that of a function, and there is none")
        if node.op_type.startswith("TreeEnsemble"):
            onnx_trees.require_sound(node)


def _require_order(graph: Any) -> None:
    """Every name is given once, before it is used: so that there is no cycle."""
    known = {each.name for each in graph.initializer}
    if len(known) != len(graph.initializer):
        raise _hostile("two of its tensors have one name")
    inputs = [each.name for each in graph.input]
    if len(set(inputs)) != len(inputs):
        raise _hostile("two of its inputs have one name")
    known |= set(inputs)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise _hostile(f"a node '{node.op_type}' reads '{name[:80]}' before it is there: a cycle, or a gap")
        for name in node.output:
            if name and name in known:
                raise _hostile(f"'{name[:80]}' is given twice")
            known.add(name)
    for each in graph.output:
        if each.name not in known:
            raise _hostile(f"nothing gives its output '{each.name[:80]}'")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in _TENSOR_ATTRIBUTES or attribute.HasField("t") or attribute.tensors:
                yield attribute.t
                yield from attribute.tensors


def _require_whole(tensor: Any) -> None:
    """The numbers of a tensor lie in the file, and are as many as its shape says."""
    name = tensor.name[:80]
    if tensor.data_location or tensor.external_data:
        raise _hostile(f"the tensor '{name}' lies in another file")
    if tensor.HasField("segment"):
        raise _hostile(f"the tensor '{name}' comes in segments")
    count = _count(tensor.dims, name)
    kind = tensor.data_type
    if kind not in _FIELDS and not (kind == 0 and count == 0):
        if kind == 0 and not tensor.dims:
            return  # an attribute of another type has an empty one
        raise _unusable(f"the tensor '{name}' has numbers of a kind that is not read", hint="Use float32.")
    if tensor.raw_data or count == 0 or kind == 0:
        found, wanted = len(tensor.raw_data), count * _BYTES.get(kind, 0)
        if kind == _STRINGS and tensor.raw_data:
            raise _hostile(f"the tensor '{name}' of strings is given as bytes")
    else:
        found, wanted = len(getattr(tensor, _FIELDS[kind])), count
        if not tensor.dims and kind == 1 and not found:
            return  # the empty tensor of an attribute of another type
    if found != wanted:
        raise _hostile(f"the tensor '{name}' promises {wanted:,} and holds {found:,}")


def _count(dims: Sequence[int], name: str) -> int:
    if len(dims) > 16 or any(size < 0 for size in dims):
        raise _hostile(f"the tensor '{name}' has an impossible shape")
    count = math.prod(dims)
    if count > MOST_BYTES:
        raise _hostile(f"the tensor '{name}' promises {count:,} numbers")
    return count


def _input(graph: Any) -> Any:
    constant = {each.name for each in graph.initializer}
    free = [each for each in graph.input if each.name not in constant]
    if len(free) != 1:
        raise _unusable(
            f"it has {len(free)} inputs; one for images is read", hint="Export a network that takes images alone."
        )
    if free[0].type.tensor_type.elem_type not in _INPUTS:
        raise _unusable(
            f"its input '{free[0].name[:80]}' is not of floats or bytes",
            hint="Let it take float32, float16, float64 or uint8.",
        )
    return free[0]


def _shape(images: Any) -> tuple[int | None, ...]:
    dims = images.type.tensor_type.shape.dim
    shape = tuple(each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None for each in dims)
    if len(shape) not in (2, 4):
        raise _unusable(
            f"its input has {len(shape)} axes",
            hint="Images are [batch, channels, height, width], [batch, height, width, channels] or rows [batch, n].",
        )
    if shape[0] is not None and shape[0] > MOST_BATCH:
        raise _hostile(f"it takes batches of {shape[0]:,} images; {MOST_BATCH:,} are given at most")
    return shape


def _filled(shape: tuple[int | None, ...], expects: Preprocessing | None) -> tuple[int, ...]:
    """The shape of one image, or of the one batch that it takes."""
    told: tuple[int, ...] = (1,) * len(shape)
    if expects is not None:
        side, channels = expects.image_size, expects.channels
        by_layout = {
            "nchw": (1, channels, side, side), "nhwc": (1, side, side, channels), "flat": (1, channels * side * side),
        }  # fmt: skip
        asked = by_layout[expects.layout]
        fits = len(asked) == len(shape) and all(
            own in (None, one) for own, one in zip(shape[1:], asked[1:], strict=True)
        )
        if not fits:
            raise UnusableWeights(
                f"The graph takes images of shape {_told(shape)}, but the preprocessing gives "
                f"{_told((None, *asked[1:]))}.",
                hint="Set image_size, channels and layout of the preprocessing to what the graph takes.",
                pointer="/preprocessing",
            )
        told = asked
    return tuple(own or one for own, one in zip(shape, told, strict=True))


def _told(shape: Iterable[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _require_small(model: Any, *, images: str, shape: tuple[int, ...]) -> None:
    """No tensor that is computed for one image takes more memory than a network of images needs."""
    sizes = _sizes(model, images=images, shape=shape)
    allowed = min(shape[0], _MOST_TIMES)
    total = 0
    for node in model.graph.node:
        for name in filter(None, node.output):
            size = sizes.get(name)
            if size is None:
                if node.op_type in GENERATORS:
                    raise _unusable(
                        f"how much a node '{node.op_type}' gives cannot be told beforehand",
                        hint="Export it with constant sizes; only the batch may vary.",
                    )
                continue
            total += size
            if size > MOST_ELEMENTS * allowed:
                raise _hostile(f"a node '{node.op_type}' gives {size:,} numbers for {allowed} images")
    if total > MOST_ELEMENTS_IN_ALL * allowed:
        raise _hostile(f"its nodes give {total:,} numbers for {allowed} images")


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
        raise _hostile("its shapes unfold to more than there is memory") from None
    except Exception as error:  # onnx raises errors without a common root
        raise _unusable(
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


def _classes(graph: Any) -> tuple[tuple[int | str, ...], tuple[str, ...]]:
    """The keys of scikit-learn's dictionaries, and the names of the classes where they have names."""
    zipped: tuple[int | str, ...] = ()
    names: tuple[str, ...] = ()
    for node in graph.node:
        if node.domain != "ai.onnx.ml":
            continue
        told = {each.name: each for each in node.attribute}
        for key in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
            if key not in told:
                continue
            strings = tuple(each.decode(errors="replace") for each in told[key].strings)
            names = strings or names
            if node.op_type == "ZipMap":
                zipped = strings or tuple(told[key].ints)
    return zipped, names


def _parameters(graph: Any) -> int:
    constants = sum(math.prod(map(int, each.dims)) for each in graph.initializer if each.data_type in (1, 10, 11, 16))
    learned = sum(len(each.floats) for node in graph.node if node.domain == "ai.onnx.ml" for each in node.attribute)
    return constants + learned


def _hostile(why: str) -> HostileFile:
    return HostileFile(
        f"The ONNX graph is not run: {why}.",
        hint="Export the network anew, as one file of plain operators.",
        pointer=_WHERE,
    )


def _unusable(why: str, *, hint: str) -> UnusableWeights:
    return UnusableWeights(f"The ONNX graph cannot be used: {why}.", hint=hint, pointer=_WHERE)
