"""The ONNX export of a network in OpenVINO, on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import InvalidRequest, MissingDependency
from engine.black_box import OnnxNetwork
from engine.runtimes.session import OUTPUT, Form, Forms, Precision, in_batches

_CPU_FACTS = Path("/proc/cpuinfo")
_BFLOAT16 = ("avx512_bf16", "amx_bf16")


class OpenVinoSession:
    """One stream of inference. The graph is compiled for each batch size that it is fed with, before calls are timed.

    OpenVINO is faster with a known batch size than with any.
    """

    def __init__(self, onnx: Path, *, threads: int, precision: str) -> None:
        import openvino

        self._core = openvino.Core()
        self._onnx = onnx
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            # What is not of eight bits; without it, OpenVINO takes bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": precision,
            # Sessions of one process would all be pinned to the same cores; no other runtime here pins.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: dict[tuple[int, ...], Any] = {}
        self._fed: list[tuple[Any, Any]] = []

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            graph = self._core.read_model(str(self._onnx))
            graph.reshape(list(shape))
            self._requests[shape] = self._core.compile_model(graph, "CPU", self._settings).create_infer_request()
        return self._requests[shape]

    def settings(self, batch: Tensor) -> dict[str, Any]:
        """What OpenVINO made of the settings, for batches of this shape."""
        compiled = self._request(tuple(batch.shape)).get_compiled_model()
        return {name: compiled.get_property(name) for name in self._settings}

    def feed(self, batches: Sequence[Tensor]) -> None:
        import openvino

        self._fed = [
            (
                self._request(tuple(batch.shape)),
                openvino.Tensor(np.ascontiguousarray(batch.numpy()), shared_memory=True),
            )
            for batch in batches
        ]

    def call(self, index: int) -> float | None:
        request, images = self._fed[index % len(self._fed)]
        request.set_input_tensor(images)
        request.infer(share_outputs=True)
        return None

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """As `Session.logits`, in batches of the size that was fed, so that what is timed is what answers."""
        size = self._fed[0][1].shape[0] if self._fed else len(images)
        return in_batches(images, self._answers, size=size)

    def _answers(self, batch: Tensor) -> NDArray[np.float32]:
        request = self._request(tuple(batch.shape))
        request.infer([np.ascontiguousarray(batch.numpy())])
        return np.array(request.get_tensor(OUTPUT).data, dtype=np.float32)


class OpenVino:
    """The ONNX export of the network in OpenVINO."""

    name = "openvino"
    form: Form = "onnx"
    precision: Precision = "float32"
    _computed_in = "f32"

    def absent_on(self, device: torch.device) -> str:
        try:
            import openvino
        except ImportError:
            return "the package openvino is not installed"
        del openvino
        return "" if device.type == "cpu" else "OpenVINO is run on the CPU"

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> OpenVinoSession:
        """
        Raises:
            InvalidRequest: the network is an ONNX graph that came from elsewhere.
            MissingDependency: openvino is not installed, or this runtime cannot run on `device`.
        """
        if isinstance(forms.network, OnnxNetwork):
            raise InvalidRequest(
                "A network that came as an ONNX graph is timed in ONNX Runtime only.",
                hint=f"Leave '{self.name}' out of 'latency.runtimes'.",
            )
        if reason := self.absent_on(device):
            raise MissingDependency(
                f"{self.name} cannot run on {device}: {reason}.",
                hint=f"Install it with: pip install openvino, or leave '{self.name}' out of 'latency.runtimes'.",
            )
        return OpenVinoSession(forms.demanded(self.form), threads=threads, precision=self._computed_in)


class OpenVinoBfloat16(OpenVino):
    """The ONNX export in OpenVINO, computing in bfloat16."""

    name = "openvino-bf16"
    precision: Precision = "bfloat16"
    _computed_in = "bf16"

    def absent_on(self, device: torch.device) -> str:
        return super().absent_on(device) or _no_bfloat16()


class OpenVinoInt8(OpenVino):
    """The ONNX export with weights and activations of eight bits in OpenVINO."""

    name = "openvino-int8"
    form: Form = "int8"
    precision: Precision = "int8"


def _no_bfloat16() -> str:
    """Why computing in bfloat16 would be no faster here; empty when it is."""
    facts = _CPU_FACTS.read_text().split() if _CPU_FACTS.exists() else []
    if any(flag in facts for flag in _BFLOAT16):
        return ""
    return f"this processor has no instructions for bfloat16 ({' or '.join(_BFLOAT16)})"
