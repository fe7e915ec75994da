"""A teacher whose layers and weights nobody can see: an ONNX graph that answers images, whatever made it.

Its further outputs pass through child modules of their names, so that hooks read them as layers of any other network.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import MissingDependency, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.intake import weights_onnx
from engine.intake.weights_onnx import Graph

FLOOR = 1e-7
"""Probabilities below it are taken for it, so that their logarithm is finite."""
_PREPROCESSING, _OUTPUTS = "distillery.preprocessing", "distillery.outputs"
_SUM_TOLERANCE = 1e-3
_DTYPES = {"float32": np.float32, "float16": np.float16, "float64": np.float64, "uint8": np.uint8}
_LARGEST_BYTE = 255.0
_OWN = ("sha256", "classes", "outputs", "map_layers", "digest", "_box", "_fit")
"""Attributes of the network that no layer may be called."""
_TRIED = 3
"""Images of noise."""


@dataclass(frozen=True)
class Fit:
    """How the job's networks read images, which has to be undone."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int


@dataclass(frozen=True, eq=False)
class Box:
    """A checked graph in ONNX Runtime, and what is known of it."""

    content: bytes = field(repr=False)
    graph: Graph
    preprocessing: Preprocessing
    answers: str
    """The name of the output that is the answer [B, K]."""
    layers: tuple[tuple[str, str], ...]
    """Of each further output, the name as a layer and that in the graph."""
    sessions: dict[str, Any] = field(default_factory=dict, repr=False)
    """By device; made when they are first asked for."""

    def session(self, device: torch.device) -> Any:
        """The ONNX Runtime session for `device`; on the CPU where it has no CUDA provider."""
        if device.type not in self.sessions:
            self.sessions[device.type] = opened(self.content, cuda=device.type == "cuda")
        return self.sessions[device.type]

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens sessions of its own."""
        return {**vars(self), "sessions": {}}


class OnnxNetwork(nn.Module):
    """Images float32 [B, C, H, W], as the job's networks read them, to logits [B, K]. Nothing in it has a gradient.

    Of probabilities the logits are their logarithms. As it is made, it takes images whose pixels, divided by 255, are
    of its own size and channels; `fitted` gives one for images that are normalised, of another size, or grey.

    Raises:
        UnusableWeights: ONNX Runtime cannot run the graph on such images, or no output has a column for each class.
        MissingDependency: onnxruntime is not installed.
    """

    def __init__(
        self,
        content: bytes,
        *,
        preprocessing: Preprocessing,
        classes: int | None = None,
        outputs: Literal["auto", "logits", "probabilities"] = "auto",
    ) -> None:
        super().__init__()
        graph = weights_onnx.check(content, preprocessing=preprocessing)
        self.sha256 = hashlib.sha256(content).hexdigest()
        probe = opened(content, cuda=False)
        graph, tried = _tried(probe, graph, preprocessing)
        answers = _answers(tried, classes=classes)
        found = [name for name in tried if name != answers and _is_layer(tried[name])]
        named = tuple((layer_name(name), name) for name in found)
        self._box = Box(content, graph, preprocessing, answers, named, {"cpu": probe})
        width = tried[answers].shape[1]
        self.classes = int(width)
        self.map_layers = tuple(layer for layer, name in named if tried[name].ndim > 2)
        """Of its layers, those that give a map [B, C, H, W] or tokens [B, L, D]."""
        told = looks_like(tried[answers]) if outputs == "auto" else outputs
        self.outputs: Literal["logits", "probabilities"] = told
        self._fit = _own(preprocessing)
        for layer, _ in named:
            self.add_module(layer, nn.Identity())
        digest = torch.frombuffer(bytearray.fromhex(self.sha256), dtype=torch.uint8)
        self.register_buffer("digest", digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxNetwork":
        return self._like(self._fit)

    def _like(self, fit: Fit) -> "OnnxNetwork":
        """Another one around the same sessions, which keep no state."""
        other = OnnxNetwork.__new__(OnnxNetwork)
        nn.Module.__init__(other)
        other._box, other._fit, other.sha256 = self._box, fit, self.sha256
        other.classes, other.map_layers, other.outputs = self.classes, self.map_layers, self.outputs
        for layer, _ in self._box.layers:
            other.add_module(layer, nn.Identity())
        other.register_buffer("digest", self.get_buffer("digest").clone())
        return other.train(self.training)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of its further outputs, as hooks find them."""
        return tuple(layer for layer, _ in self._box.layers)

    @property
    def named_outputs(self) -> tuple[tuple[str, str], ...]:
        """Of each layer its name, and that of the output it stands for."""
        return self._box.layers

    @property
    def graph(self) -> Graph:
        """What the check found of the graph."""
        return self._box.graph

    @property
    def content(self) -> bytes:
        """The file."""
        return self._box.content

    def parameter_count(self) -> int:
        """Numbers in the initialisers of the graph, and in the tables of its trees."""
        return self._box.graph.parameters

    def fitted(self, *, mean: Sequence[float], std: Sequence[float], image_size: int, channels: int) -> "OnnxNetwork":
        """The same network for images of that size that were normalised by `mean` and `std`."""
        return self._like(Fit(tuple(mean), tuple(std), image_size, channels))

    def described(self) -> bytes:
        """The file, with what it expects of an image and what its answers are written beside the graph."""
        told = {_PREPROCESSING: self._box.preprocessing.model_dump_json(), _OUTPUTS: self.outputs}
        return weights_onnx.with_metadata(self._box.content, told)

    def expected(self, images: Tensor) -> NDArray[Any]:
        """Images [B, C, H, W], as the job's networks read them, as the graph reads them."""
        return _typed(as_expected(images, fit=self._fit, expects=self._box.preprocessing), self._box)

    def alone(self, *, cuda: bool, threads: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """A fresh session of the graph, from images as it reads them to its answer alone."""
        session, names = opened(self._box.content, cuda=cuda, threads=threads), [self._box.answers]
        return lambda images: run_batches(session, images, names, graph=self._box.graph)[self._box.answers]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K]; each further output passes through the child of its name on the way."""
        names = [self._box.answers, *(name for _, name in self._box.layers)]
        session = self._box.session(images.device)
        given = run_batches(session, self.expected(images), names, graph=self._box.graph)
        told = {name: torch.from_numpy(np.ascontiguousarray(array)).to(images.device) for name, array in given.items()}
        for layer, name in self._box.layers:
            self.get_submodule(layer)(told[name].float())
        answered = told[self._box.answers].float()
        return answered if self.outputs == "logits" else log_probabilities(answered)


def read(path: Path) -> bytes:
    """The bytes of a graph.

    Raises:
        UnusableWeights: there is no such file, or it is larger than a graph can be.
    """
    if not path.is_file():
        raise UnusableWeights(f"There is no weights file {path}.", hint="Check the path.", pointer="/teacher/weights")
    weights_onnx.require_size(path.stat().st_size)
    return path.read_bytes()


def told_preprocessing(graph: Graph) -> Preprocessing | None:
    """What a graph that a job delivered tells of the images it expects; None of any other."""
    try:
        return Preprocessing.model_validate_json(graph.told[_PREPROCESSING])
    except (KeyError, ValueError):
        return None


def told_outputs(graph: Graph) -> Literal["auto", "logits", "probabilities"]:
    """Likewise, what its answers are."""
    told = graph.told.get(_OUTPUTS)
    return "probabilities" if told == "probabilities" else "logits" if told == "logits" else "auto"


def log_probabilities(values: Tensor) -> Tensor:
    """Logarithms of probabilities [B, K], none below that of 1e-7."""
    return values.clamp_min(FLOOR).log()


def looks_like(answers: NDArray[Any]) -> Literal["logits", "probabilities"]:
    """`probabilities` where every row [K] is positive and adds up to 1."""
    values = answers.astype(np.float64)
    sums = values.sum(axis=1)
    whole = bool((values >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all())
    return "probabilities" if whole else "logits"


def layer_name(output: str) -> str:
    """The name of an output as that of a child module, which holds no dots, and is none that every module has."""
    name = output.replace(".", "_").replace("/", "_") or "_"
    return f"{name}_" if hasattr(OnnxNetwork, name) or name in _OWN or name in vars(nn.Module()) else name


def _own(expects: Preprocessing) -> Fit:
    plain = (0.0,) * expects.channels, (1.0,) * expects.channels
    return Fit(*plain, expects.image_size, expects.channels)


def as_expected(images: Tensor, *, fit: Fit, expects: Preprocessing) -> Tensor:
    """Images [B, C, H, W] as `fit` says they were normalised, to what a graph expects, in its own layout, float32."""
    values = images.float() * _column(fit.std, images) + _column(fit.mean, images)
    if values.shape[2] != expects.image_size or values.shape[3] != expects.image_size:
        values = _resized(values, expects)
    if values.shape[1] != expects.channels:
        values = values.mean(1, keepdim=True) if expects.channels == 1 else values.expand(-1, expects.channels, -1, -1)
    if expects.channel_order == "bgr":
        values = values.flip(1)
    values = (values * expects.scale - _column(expects.mean, images)) / _column(expects.std, images)
    if expects.layout == "nhwc":
        return values.permute(0, 2, 3, 1)
    return values.flatten(1) if expects.layout == "flat" else values


def _column(numbers: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)


def _resized(values: Tensor, expects: Preprocessing) -> Tensor:
    size = (expects.image_size, expects.image_size)
    if expects.interpolation == "nearest":
        return functional.interpolate(values, size=size, mode="nearest-exact")
    resized = functional.interpolate(values, size=size, mode=expects.interpolation, antialias=True, align_corners=False)
    return resized.clamp(0, 1)  # bicubic swings over


def _typed(values: Tensor, box: Box) -> NDArray[Any]:
    dtype = _DTYPES[box.graph.dtype]
    if dtype is np.uint8:
        values = values.round().clamp(0, _LARGEST_BYTE)
    return np.ascontiguousarray(values.cpu().numpy().astype(dtype))


def run_batches(session: Any, images: NDArray[Any], names: Sequence[str], *, graph: Graph) -> dict[str, NDArray[Any]]:
    """The named outputs for images [B, ...]; a fixed batch is filled up with copies of the last image, or cut up.

    Raises:
        UnusableWeights: ONNX Runtime cannot run the graph on them.
    """
    size = graph.batch or max(1, len(images))
    parts = [_run(session, images[at : at + size], names, graph=graph) for at in range(0, len(images), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _run(session: Any, images: NDArray[Any], names: Sequence[str], *, graph: Graph) -> dict[str, NDArray[Any]]:
    count = len(images)
    lacking = (graph.batch or count) - count
    if lacking:
        images = np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)])
    try:
        given = session.run(list(names), {graph.input: images})
    except Exception as error:  # onnxruntime's errors have no root of their own
        raise _not_run(error) from None
    told = {name: _array(value, graph) for name, value in zip(names, given, strict=True)}
    for name, array in told.items():
        if array.ndim < 1 or len(array) != len(images):
            raise UnusableWeights(
                f"The output '{name}' of the ONNX graph has the shape {array.shape} for {len(images)} images.",
                hint="Export the graph so that the first axis of every output is that of the images.",
                pointer="/teacher",
            )
    return {name: array[:count] for name, array in told.items()}


def _not_run(error: Exception) -> UnusableWeights:
    return UnusableWeights(
        f"ONNX Runtime cannot run the graph: {str(error).strip().splitlines()[0][:300]}",
        hint="Check image_size, channels and layout of the preprocessing against the input of the graph.",
        pointer="/teacher/preprocessing",
    )


def _array(value: Any, graph: Graph) -> NDArray[Any]:
    """A tensor as it is; what a ZipMap gives, a dictionary for each image, as [B, K] in the order of its classes."""
    if isinstance(value, list):
        keys: Sequence[Any] = graph.zipped or (sorted(value[0]) if value and isinstance(value[0], Mapping) else ())
        return np.array([[row[key] for key in keys] for row in value], dtype=np.float32)
    return np.asarray(value)


def _tried(session: Any, graph: Graph, expects: Preprocessing) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """Every output for a few images of noise; a graph that answers only one image at a time is found out."""
    pixels = torch.rand(_TRIED, expects.channels, expects.image_size, expects.image_size, generator=_generator())
    values = as_expected((pixels * _LARGEST_BYTE).round() / _LARGEST_BYTE, fit=_own(expects), expects=expects)
    images = np.ascontiguousarray(values.numpy().astype(_DTYPES[graph.dtype]))
    try:
        return graph, run_batches(session, images, graph.outputs, graph=graph)
    except UnusableWeights:
        if graph.batch is not None:
            raise
        alone = replace(graph, batch=1)
        return alone, run_batches(session, images, graph.outputs, graph=alone)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _is_layer(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and array.ndim in (2, 3, 4)


def _answers(tried: Mapping[str, NDArray[Any]], *, classes: int | None) -> str:
    """The output that is the answer: the last one [B, K]."""
    rows = {name: array.shape[1] for name, array in tried.items() if array.dtype.kind == "f" and array.ndim == 2}
    fitting = [name for name, width in rows.items() if width == classes or (classes is None and width > 1)]
    usual = [name for name in fitting if name.lower() in ("logits", "probabilities", "output_probability", "scores")]
    if classes is None and len({rows[name] for name in fitting}) > 1 and not usual:
        raise UnusableWeights(
            f"Several outputs of the ONNX graph may be the answer: {_shapes(tried)}.",
            hint="Tell the classes, so that the one with a column for each is taken.",
            pointer="/classes",
        )
    if not fitting:
        raise UnusableWeights(
            f"No output of the ONNX graph has a column for each of {classes or 'two or more'} classes; it gives "
            f"{_shapes(tried)}.",
            hint="The answer is an output [images, classes] of floats. Export scikit-learn with "
            "options={'zipmap': False}.",
            pointer="/teacher",
        )
    return usual[-1] if usual and classes is None else fitting[-1]


def _shapes(tried: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"'{name}' {list(array.shape)}" for name, array in tried.items())


def opened(content: bytes, *, cuda: bool, threads: int = 0) -> Any:
    """An ONNX Runtime session from bytes; 0 `threads` are as many as PyTorch has.

    Raises:
        UnusableWeights: ONNX Runtime refuses the graph.
        MissingDependency: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency("onnxruntime is not installed.", hint="pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    offered = onnxruntime.get_available_providers()
    wanted = (["CUDAExecutionProvider"] if cuda else []) + ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in offered]
    try:
        # Folding constants computes what a small graph may have made huge; all else is done for speed.
        return onnxruntime.InferenceSession(
            content, sess_options=options, providers=providers, disabled_optimizers=["ConstantFolding"]
        )
    except Exception as error:  # onnxruntime's errors have no root of their own
        raise UnusableWeights(
            f"ONNX Runtime refuses the graph: {str(error).strip().splitlines()[0][:300]}",
            hint="Export it again with an opset that this ONNX Runtime knows.",
            pointer="/teacher",
        ) from None
