"""An ONNX network with weights and activations of eight bits, for runtimes that compute faster with those."""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillery.errors import InvalidRequest, MissingDependency
from engine.checkpoint import written_whole
from engine.runtimes.session import INPUT

_MEND = "Leave 'onnx-int8' out of 'export' and the runtimes of eight bits out of 'latency.runtimes'."


def quantise(onnx: Path, out: Path, *, calibration: Sequence[NDArray[np.float32]]) -> None:
    """Write `onnx`, an export of ours, to `out` with int8 weights (a scale per channel) and uint8 activations.

    The scales of activations come from what the network computes of `calibration`: batches float32 [B, C, H, W] of
    real, normalised images, none of which the result is judged by. The file takes any batch size, as `onnx` does, and
    holds each quantised operation between QuantizeLinear and DequantizeLinear (QDQ), which every runtime reads.

    Raises:
        InvalidRequest: there are no images, or the graph cannot be quantised.
        MissingDependency: onnx or onnxruntime is not installed.
        StorageFull: no space is left for the file.
    """
    if not calibration:
        raise InvalidRequest("Eight bits need images to be calibrated on, and there are none.", hint=_MEND)
    library = _library()
    with tempfile.TemporaryDirectory(prefix="distillery-int8-") as folder, _quiet():
        # The library writes its own files beside what it reads, and would leave them there if it were stopped.
        source, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        shutil.copyfile(onnx, source)
        try:
            library.quantize_static(
                str(source),
                str(made),
                _reader(library, calibration),
                quant_format=library.QuantFormat.QDQ,
                per_channel=True,
                # Weights of seven bits: processors with AVX2 and without VNNI add two products in 16 bits, which eight
                # bits overflow; the answers are then wrong by a multiple of the rounding.
                reduce_range=True,
                weight_type=library.QuantType.QInt8,
                activation_type=library.QuantType.QUInt8,
                calibrate_method=library.CalibrationMethod.MinMax,
            )
        except Exception as refused:  # onnx and onnxruntime have no error in common, not even below Exception
            raise InvalidRequest(f"{onnx.name} cannot be quantised: {_first_line(refused)}", hint=_MEND) from refused
        content = made.read_bytes()
    if not _holds_eight_bits(content):
        raise InvalidRequest(
            f"{onnx.name} cannot be quantised: no operation in it has a form of eight bits.", hint=_MEND
        )
    with written_whole(out, expected_bytes=len(content)) as writer:
        writer.write(content)


def _library() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as absent:
        raise MissingDependency(
            f"Quantising needs the package '{absent.name}'.", hint="Install it with: pip install onnx onnxruntime"
        ) from absent
    return quantization


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _holds_eight_bits(content: bytes) -> bool:
    import onnx

    return any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(content).graph.node)


def _reader(library: Any, batches: Sequence[NDArray[np.float32]]) -> Any:
    class Batches(library.CalibrationDataReader):  # type: ignore[misc]  # the library carries no annotations
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._left, None)
            return None if batch is None else {INPUT: batch}

    return Batches()


@contextmanager
def _quiet() -> Iterator[None]:
    """The library proposes a step of preparation through the root logger, which our exports do not need."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
