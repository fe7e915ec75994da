"""Is this ONNX graph one that may be run? Looked at from its bytes, before any runtime sees it, and without torch.

Everything that could be large is estimated by shape inference on a copy without its weights.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distillery.errors import MissingDependency, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.intake import onnx_trees
from engine.intake.onnx_operators import LEARNED, OPERATORS
from engine.intake.onnx_refusals import hostile, unusable
from engine.intake.onnx_sizes import require_small
from engine.intake.onnx_tensors import require_whole, tensors

MOST_BYTES = 2_000_000_000
"""A graph in one file is a protobuf message."""
MOST_NODES = 10_000
MOST_TENSORS = 100_000
MOST_OUTPUTS = 64
MOST_BATCH = 4096
MOST_METADATA = 1_000
MOST_METADATA_CHARACTERS = 1 << 20
_OPSETS = {"": range(7, 100), "ai.onnx": range(7, 100), "ai.onnx.ml": range(1, 100)}
_INPUTS = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}
"""ONNX's numbers of the types that images may have."""
_GRAPH_ATTRIBUTES = (5, 10)
_SPARSE_ATTRIBUTES = (11, 12)
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
    told: Mapping[str, str] = field(default_factory=dict)
    """What its maker wrote beside it."""


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
    for tensor in tensors(model.graph):
        require_whole(tensor)
    images = _input(model.graph)
    shape = _shape(images)
    require_small(model, images=images.name, shape=_filled(shape, preprocessing))
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
        told=_beside(model),
    )


def _beside(model: Any) -> dict[str, str]:
    if len(model.metadata_props) > MOST_METADATA:
        raise hostile(f"it has {len(model.metadata_props):,} entries of metadata")
    told = {each.key: each.value for each in model.metadata_props}
    if sum(map(len, told.values())) > MOST_METADATA_CHARACTERS:
        raise hostile("its metadata are longer than a megabyte")
    return told


def with_metadata(content: bytes, told: Mapping[str, str]) -> bytes:
    """The same graph with more written beside it."""
    model = _parsed(content)
    kept = [(each.key, each.value) for each in model.metadata_props if each.key not in told]
    del model.metadata_props[:]
    for key, value in (*kept, *told.items()):
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString(deterministic=True))


def _parsed(content: bytes) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingDependency("onnx is not installed.", hint="pip install onnx") from None
    try:
        model = onnx.ModelProto.FromString(content)
    except MemoryError:
        raise hostile("its message unfolds to more than the memory that a file of its size may take") from None
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
        raise unusable(
            f"it holds {len(model.functions)} local functions",
            hint="Inline them: onnx.inliner.inline_local_functions(model).",
        )
    if model.training_info:
        raise unusable("it holds training graphs", hint="Export it for inference.")
    for opset in model.opset_import:
        if opset.domain not in _OPSETS:
            raise hostile(f"it asks for operators of the domain '{opset.domain[:80]}', which could be any code")
        if opset.version not in _OPSETS[opset.domain]:
            raise unusable(f"it asks for version {opset.version} of the operators", hint="Export with opset 13 to 21.")
    graph = model.graph
    if graph.sparse_initializer:
        raise hostile("it holds sparse tensors, which can unfold to any size")
    for what, count, most in (
        ("nodes", len(graph.node), MOST_NODES),
        ("tensors", len(graph.initializer), MOST_TENSORS),
        ("outputs", len(graph.output), MOST_OUTPUTS),
        ("inputs", len(graph.input), MOST_TENSORS),
    ):
        if count > most:
            raise hostile(f"it has {count:,} {what}; {most:,} are read at most")


def _require_operators(model: Any) -> None:
    for node in model.graph.node:
        known = {"": OPERATORS, "ai.onnx": OPERATORS, "ai.onnx.ml": LEARNED}.get(node.domain)
        if known is None:
            raise hostile(f"a node is of the domain '{node.domain[:80]}', whose operators could be any code")
        if node.op_type not in known:
            raise unusable(
                f"it uses the operator '{node.op_type[:80]}', which is not run here",
                hint="Export it without control flow, sequences, strings, randomness and sizes that depend on values.",
            )
        for attribute in node.attribute:
            if attribute.type in _GRAPH_ATTRIBUTES or attribute.graphs or attribute.HasField("g"):
                raise hostile(f"the node '{node.op_type}' holds graphs within the graph")
            if attribute.type in _SPARSE_ATTRIBUTES or attribute.HasField("sparse_tensor"):
                raise hostile("it holds sparse tensors, which can unfold to any size")
            if attribute.ref_attr_name:
                raise hostile("an attribute refers to that of a function, and there is none")
        if node.op_type.startswith("TreeEnsemble"):
            onnx_trees.require_sound(node)


def _require_order(graph: Any) -> None:
    """Every name is given once, before it is used: so that there is no cycle."""
    known = {each.name for each in graph.initializer}
    if len(known) != len(graph.initializer):
        raise hostile("two of its tensors have one name")
    inputs = [each.name for each in graph.input]
    if len(set(inputs)) != len(inputs):
        raise hostile("two of its inputs have one name")
    known |= set(inputs)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise hostile(f"a node '{node.op_type}' reads '{name[:80]}' before it is there: a cycle, or a gap")
        for name in node.output:
            if name and name in known:
                raise hostile(f"'{name[:80]}' is given twice")
            known.add(name)
    for each in graph.output:
        if each.name not in known:
            raise hostile(f"nothing gives its output '{each.name[:80]}'")


def _input(graph: Any) -> Any:
    constant = {each.name for each in graph.initializer}
    free = [each for each in graph.input if each.name not in constant]
    if len(free) != 1:
        raise unusable(
            f"it has {len(free)} inputs; one for images is read", hint="Export a network that takes images alone."
        )
    if free[0].type.tensor_type.elem_type not in _INPUTS:
        raise unusable(
            f"its input '{free[0].name[:80]}' is not of floats or bytes",
            hint="Let it take float32, float16, float64 or uint8.",
        )
    return free[0]


def _shape(images: Any) -> tuple[int | None, ...]:
    dims = images.type.tensor_type.shape.dim
    shape = tuple(each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None for each in dims)
    if len(shape) not in (2, 4):
        raise unusable(
            f"its input has {len(shape)} axes",
            hint="Images are [batch, channels, height, width], [batch, height, width, channels] or rows [batch, n].",
        )
    if shape[0] is not None and shape[0] > MOST_BATCH:
        raise hostile(f"it takes batches of {shape[0]:,} images; {MOST_BATCH:,} are given at most")
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
