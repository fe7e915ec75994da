"""The ONNX export of a network in ONNX Runtime, and ONNX graphs that came from elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.errors import MissingDependency
from engine.black_box import OnnxNetwork
from engine.runtimes.session import INPUT, OUTPUT, Form, Forms, Precision


class OnnxSession:
    """One ONNX Runtime session, sequential. Inputs and answers stay on the device while calls are timed."""

    def __init__(self, onnx: Path, *, device: torch.device, threads: int) -> None:
        self._device = device
        self._session = _inference_session(onnx, cuda=device.type == "cuda", threads=threads)
        self._arrays: list[NDArray[np.float32]] = []
        self._bindings: list[Any] = []

    @property
    def options(self) -> Any:
        """The options that ONNX Runtime made of what it was given."""
        return self._session.get_session_options()

    def feed(self, batches: Sequence[Tensor]) -> None:
        self._arrays = [np.ascontiguousarray(batch.numpy()) for batch in batches]
        self._bindings = [self._bound(array) for array in self._arrays] if self._device.type == "cuda" else []

    def _bound(self, array: NDArray[np.float32]) -> Any:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        binding.bind_ortvalue_input(INPUT, OrtValue.ortvalue_from_numpy(array, "cuda", self._device.index or 0))
        binding.bind_output(OUTPUT, "cuda", self._device.index or 0)
        return binding

    def call(self, index: int) -> float | None:
        if self._bindings:
            binding = self._bindings[index % len(self._bindings)]
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        else:
            self._session.run([OUTPUT], {INPUT: self._arrays[index % len(self._arrays)]})
        return None

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        return np.asarray(self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images.numpy())})[0])


class BlackBoxSession:
    """An ONNX graph from elsewhere, on images that are laid out as it reads them before they are timed."""

    def __init__(self, network: OnnxNetwork, *, device: torch.device, threads: int) -> None:
        self._network = network
        self._run = network.alone(cuda=device.type == "cuda", threads=threads)
        self._arrays: list[NDArray[Any]] = []

    def feed(self, batches: Sequence[Tensor]) -> None:
        self._arrays = [self._network.expected(batch) for batch in batches]

    def call(self, index: int) -> float | None:
        self._run(self._arrays[index % len(self._arrays)])
        return None

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._network(images).float().cpu().numpy())


def _inference_session(onnx: Path, *, cuda: bool, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Idle sessions of one process otherwise spin on the cores that the timed one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only
    providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(onnx), sess_options=options, providers=providers)


class OnnxRuntime:
    """The ONNX export of the network in ONNX Runtime."""

    name = "onnxruntime"
    form: Form = "onnx"
    precision: Precision = "float32"

    def absent_on(self, device: torch.device) -> str:
        try:
            import onnxruntime
        except ImportError:
            return "the package onnxruntime is not installed"
        if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "the installed onnxruntime has no CUDA provider (onnxruntime-gpu has)"
        return ""

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> OnnxSession | BlackBoxSession:
        """
        Raises:
            MissingDependency: onnxruntime is not installed, or cannot run on `device`.
        """
        if isinstance(forms.network, OnnxNetwork):
            return BlackBoxSession(forms.network, device=device, threads=threads)
        onnx = forms.demanded(self.form)
        if reason := self.absent_on(device):
            raise MissingDependency(
                f"ONNX Runtime cannot run on {device}: {reason}.", hint="Install it with: pip install onnxruntime"
            )
        return OnnxSession(onnx, device=device, threads=threads)


class OnnxRuntimeInt8(OnnxRuntime):
    """The ONNX export with weights and activations of eight bits in ONNX Runtime, on the CPU."""

    name = "onnxruntime-int8"
    form: Form = "int8"
    precision: Precision = "int8"

    def absent_on(self, device: torch.device) -> str:
        if device.type != "cpu":
            return "networks of eight bits are run on the CPU"
        return super().absent_on(device)
