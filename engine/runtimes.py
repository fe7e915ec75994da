"""Where a trained network can run: PyTorch itself, and ONNX Runtime. A new runtime is a class here and its line in
`RUNTIMES`.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import MissingDependency, UnknownName
from distillery.spec.frozen import nearest
from engine.black_box import OnnxNetwork

INPUT = "images"
OUTPUT = "logits"


class Session(Protocol):
    """A network loaded into a runtime on one device, in float32 and the layout NCHW."""

    def feed(self, batches: Sequence[Tensor]) -> None:
        """Lay the sample batches (float32 [B, C, H, W]) where calls read them: on the device, not timed."""

    def call(self, index: int) -> float | None:
        """Answer batch `index` (counted round and round) and return when the answer is there.

        Gives the seconds that the device's own events measured, or None where it has none.
        """

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """The answers [B, K] to float32 images [B, C, H, W] from the CPU."""


class Runtime(Protocol):
    """A way to run a network."""

    name: str
    needs_onnx: bool

    def absent_on(self, device: torch.device) -> str:
        """Why this runtime cannot run on `device` here; empty when it can."""

    def load(self, network: nn.Module, *, onnx: Path | None, device: torch.device, threads: int) -> Session:
        """A fresh session that shares nothing with `network` or with another session."""


class EagerSession:
    """PyTorch without compilation, in eval and inference mode. CPU threads are PyTorch's own, set by the caller."""

    def __init__(self, network: nn.Module, *, device: torch.device) -> None:
        # Training may have left one of the networks channels-last; both are compared in the same layout.
        own = copy.deepcopy(network).to(device=device, dtype=torch.float32)
        self._network = own.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        self._device = device
        self._events = _cuda_events() if device.type == "cuda" else None
        self._batches: list[Tensor] = []

    def feed(self, batches: Sequence[Tensor]) -> None:
        self._batches = [batch.contiguous().to(self._device) for batch in batches]

    def call(self, index: int) -> float | None:
        batch = self._batches[index % len(self._batches)]
        if self._events is None:
            with torch.inference_mode():
                self._network(batch)
            return None
        began, ended = self._events
        with torch.inference_mode():
            began.record()
            self._network(batch)
            ended.record()
        torch.cuda.synchronize(self._device)
        return float(began.elapsed_time(ended)) / 1000

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._network(images.contiguous().to(self._device)).float().cpu().numpy())


def _cuda_events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event  # its constructor carries no annotations
    return event(enable_timing=True), event(enable_timing=True)


class Eager:
    """The network as PyTorch runs it: the reference of every other runtime."""

    name = "eager"
    needs_onnx = False

    def absent_on(self, device: torch.device) -> str:
        if device.type == "cuda" and not torch.cuda.is_available():
            return "PyTorch finds no CUDA device here"
        return ""

    def load(self, network: nn.Module, *, onnx: Path | None, device: torch.device, threads: int) -> EagerSession:
        return EagerSession(network, device=device)


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
    needs_onnx = True

    def absent_on(self, device: torch.device) -> str:
        try:
            import onnxruntime
        except ImportError:
            return "the package onnxruntime is not installed"
        if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "the installed onnxruntime has no CUDA provider (onnxruntime-gpu has)"
        return ""

    def load(
        self, network: nn.Module, *, onnx: Path | None, device: torch.device, threads: int
    ) -> OnnxSession | BlackBoxSession:
        """
        Raises:
            MissingDependency: onnxruntime is not installed, or cannot run on `device`.
        """
        if isinstance(network, OnnxNetwork):
            return BlackBoxSession(network, device=device, threads=threads)
        if onnx is None:
            raise ValueError("ONNX Runtime runs an exported file, so the caller exports the network before loading it.")
        if reason := self.absent_on(device):
            raise MissingDependency(
                f"ONNX Runtime cannot run on {device}: {reason}.", hint="Install it with: pip install onnxruntime"
            )
        return OnnxSession(onnx, device=device, threads=threads)


RUNTIMES: tuple[Runtime, ...] = (Eager(), OnnxRuntime())


def find(name: str) -> Runtime:
    """The runtime called `name`.

    Raises:
        UnknownName: there is none.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    known = [runtime.name for runtime in RUNTIMES]
    raise UnknownName(f"No runtime is called '{name}'.", hint=nearest(name, known))
