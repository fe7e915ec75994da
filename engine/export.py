"""Delivers a trained network as ONNX, and refuses an export that does not give the network's own answers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import ExportMismatch, InvalidRequest, MissingDependency
from engine.checkpoint import written_whole
from engine.runtimes import INPUT, OUTPUT, Forms, OnnxRuntime

TOLERANCE = 1e-3
"""Largest difference between exported and eager logits, as a share of the largest eager logit."""
MOST_BYTES = 1_800_000_000
"""A single ONNX file is a protobuf message, which holds at most 2 GiB."""


def export_onnx(network: nn.Module, path: Path, *, channels: int, image_size: int) -> None:
    """Write `network` to `path` as one ONNX file: input `images` float32 [batch, C, H, W], output `logits` [batch, K].

    The file appears under its name only when it is whole, holds no external data, and tells nothing about the machine
    that wrote it. `network` is left as it is.

    Raises:
        InvalidRequest: the network is too large for one file, or has an operation that ONNX cannot express.
        MissingDependency: onnx or onnxscript is not installed.
        StorageFull: no space is left for the file.
    """
    _demand_exporter()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if weights > MOST_BYTES:
        raise InvalidRequest(
            f"The network's weights take {weights / 1e9:.1f} GB; a single ONNX file holds {MOST_BYTES / 1e9:.1f} GB.",
            hint="Leave 'onnx' out of 'export' and 'onnxruntime' out of 'latency.runtimes'.",
            pointer="/export",
        )
    own = copy.deepcopy(network).to(device="cpu", dtype=torch.float32).to(memory_format=torch.contiguous_format).eval()
    model = _converted(own, torch.zeros(2, channels, image_size, image_size))
    _forget_origin(model.graph)
    content = model.SerializeToString(deterministic=True)
    with written_whole(path, expected_bytes=len(content)) as writer:
        writer.write(content)


def _demand_exporter() -> None:
    try:
        import onnx
        import onnxscript
    except ImportError as absent:
        raise MissingDependency(
            f"Writing ONNX needs the package '{absent.name}'.", hint="Install it with: pip install onnx onnxscript"
        ) from absent
    del onnx, onnxscript


def _converted(network: nn.Module, example: Tensor) -> Any:
    """The ONNX protobuf of `network`, with any batch size."""
    try:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except torch.onnx.OnnxExporterError as refused:
        raise InvalidRequest(
            f"{type(network).__name__} cannot be written as ONNX: {str(refused).strip().splitlines()[0]}",
            hint="Leave 'onnx' out of 'export' and 'onnxruntime' out of 'latency.runtimes'.",
            pointer="/export",
        ) from refused
    if program is None:
        raise InvalidRequest("PyTorch gave no ONNX program.", pointer="/export")
    return program.model_proto


def _forget_origin(graph: Any) -> None:
    """Drop the exporter's notes, which hold stack traces with the paths of this machine."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _forget_origin(inner)


def check_onnx(path: Path, network: nn.Module, *, samples: Tensor, tolerance: float = TOLERANCE) -> float:
    """Run the exported file and `network` on the same images; give the largest absolute difference of their logits.

    `samples` is float32 [B, C, H, W] from the CPU, normalised; it is run whole and its first image also alone.

    Raises:
        ExportMismatch: the file cannot be run, or the logits differ by more than `tolerance` of their scale.
        MissingDependency: onnxruntime is not installed.
    """
    cpu = torch.device("cpu")
    own = copy.deepcopy(network).to(device=cpu, dtype=torch.float32).eval()
    exported = _loaded(path)
    differences = []
    for images in (samples, samples[:1]):
        with torch.inference_mode():
            eager = own(images).numpy()
        try:
            answered = exported.logits(images)
        except _runtime_errors() as failed:
            raise ExportMismatch(
                f"{path.name} cannot answer a batch of {len(images)}: {failed}", hint=_MEND
            ) from failed
        differences.append(difference(answered, eager=eager, what=path.name, tolerance=tolerance))
    return max(differences)


_MEND = "Please report the architecture; until then leave 'onnx' out of 'export' and 'onnxruntime' out of the runtimes."


def _loaded(path: Path) -> Any:
    try:
        return OnnxRuntime().load(Forms(nn.Identity(), onnx=path), device=torch.device("cpu"), threads=1)
    except _runtime_errors() as failed:
        raise ExportMismatch(f"{path.name} cannot be loaded by ONNX Runtime: {failed}", hint=_MEND) from failed


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; empty where it is not installed, since nothing of it can be raised then."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return ()
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, ValueError, *own)


def difference(
    answered: NDArray[np.float32], *, eager: NDArray[np.float32], what: str, tolerance: float = TOLERANCE
) -> float:
    """The largest absolute difference between two sets of logits [B, K].

    Raises:
        ExportMismatch: the shapes differ, a value is not finite, or the difference exceeds `tolerance` times the
            largest absolute eager logit.
    """
    if answered.shape != eager.shape:
        raise ExportMismatch(f"{what} answers in the shape {answered.shape}, eager in {eager.shape}.", hint=_MEND)
    largest = float(np.abs(answered - eager).max())
    scale = float(np.abs(eager).max())
    if not largest <= tolerance * scale:  # also refuses what is not finite
        raise ExportMismatch(
            f"{what} differs from the eager network by up to {largest:.3g} where the largest logit is {scale:.3g}; "
            f"{tolerance:g} of that is allowed.",
            hint=_MEND,
        )
    return largest
