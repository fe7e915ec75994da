"""PyTorch on CUDA, with all kernels of a call recorded once and launched as one graph."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import InvalidRequest, MissingDependency
from engine.black_box import OnnxNetwork
from engine.runtimes.eager import EagerSession
from engine.runtimes.session import Form, Forms, Precision, in_batches

_WARMUP_CALLS = 3
"""Before recording, on a stream of their own: libraries choose their kernels and allocate there (PyTorch's notes on
CUDA graphs ask for it)."""


class CudaGraphSession(EagerSession):
    """As eager, but each sample batch has a recording, which reads and writes fixed memory."""

    def __init__(self, network: nn.Module, *, device: torch.device) -> None:
        super().__init__(network, device=device)
        self._recordings: list[tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = []

    def feed(self, batches: Sequence[Tensor]) -> None:
        super().feed(batches)
        self._recordings = [self._recorded(batch) for batch in self._batches]

    def _recorded(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """The graph, the memory that it reads and the memory that it writes."""
        with torch.inference_mode():
            stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream  # its constructor carries no annotations
            aside = stream(self._device)
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):
                for _ in range(_WARMUP_CALLS):
                    self._network(batch)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                answers = self._network(batch)
        return graph, batch, answers

    def call(self, index: int) -> float | None:
        graph, _, _ = self._recordings[index % len(self._recordings)]
        return self._timed(graph.replay)

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """As `Session.logits`; by the recording of the first batch, so that what is timed is what answers."""
        if not self._recordings:
            return super().logits(images)
        graph, read, written = self._recordings[0]
        before = read.clone()

        def answers(batch: Tensor) -> NDArray[np.float32]:
            read.copy_(batch)
            graph.replay()
            return np.asarray(written.float().cpu().numpy())

        answered = in_batches(images, answers, size=len(read))
        read.copy_(before)
        return answered


class CudaGraph:
    """The network in PyTorch as CUDA graphs: where a network is small, launching its kernels is what takes time."""

    name = "cuda-graph"
    form: Form = "network"
    precision: Precision = "float32"

    def absent_on(self, device: torch.device) -> str:
        if device.type != "cuda":
            return "CUDA graphs need a CUDA device"
        return "" if torch.cuda.is_available() else "PyTorch finds no CUDA device here"

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> CudaGraphSession:
        """A fresh session.

        Raises:
            InvalidRequest: the network is an ONNX graph.
            MissingDependency: there is no CUDA device.
        """
        if isinstance(forms.network, OnnxNetwork):
            raise InvalidRequest(
                "A network that is an ONNX graph is timed in ONNX Runtime only.",
                hint="Leave 'cuda-graph' out of 'latency.runtimes'.",
            )
        if reason := self.absent_on(device):
            raise MissingDependency(
                f"cuda-graph cannot run on {device}: {reason}.", hint="Leave 'cuda-graph' out of 'latency.runtimes'."
            )
        return CudaGraphSession(forms.network, device=device)
