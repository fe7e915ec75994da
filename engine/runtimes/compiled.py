"""PyTorch after torch.compile. The first call with a batch size compiles for it, which takes up to a minute."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillery.errors import InvalidRequest, MissingDependency
from engine.black_box import OnnxNetwork
from engine.runtimes.eager import EagerSession
from engine.runtimes.session import Form, Forms, Precision, in_batches


class CompiledSession(EagerSession):
    """A network that TorchInductor compiles whole, channels-last, for each shape that it is called with."""

    def __init__(self, network: nn.Module, *, device: torch.device, threads: int) -> None:
        super().__init__(network, device=device)
        own = function_of_its_own(self._network)
        options: dict[str, str | int | bool | Callable[..., object]] = {"cpp.threads": threads}
        self._network = torch.compile(own, fullgraph=True, dynamic=False, options=options)

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """As `Session.logits`, in batches of the size that was fed: another one would be compiled anew."""
        size = len(self._batches[0]) if self._batches else len(images)
        return in_batches(images, super().logits, size=size)


def function_of_its_own(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`network` as a function that shares no code object with another session.

    What is compiled is filed under the code object, and each call looks through all that is filed there: with a shared
    one, the networks that are loaded last are the slower ones, and after eight torch.compile refuses.
    """

    def forward(images: Tensor) -> Tensor:
        return network(images)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(network)}")
    return forward


class Compiled:
    """The network as torch.compile makes it: C++ on the CPU, Triton on CUDA."""

    name = "compiled"
    form: Form = "network"
    precision: Precision = "float32"

    def absent_on(self, device: torch.device) -> str:
        if device.type == "cuda":
            if not torch.cuda.is_available():
                return "PyTorch finds no CUDA device here"
            return "" if importlib.util.find_spec("triton") else "the package triton is not installed"
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return (
                f"torch.compile needs the C++ compiler {compiler}, which is not installed (another one is named in CXX)"
            )
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            return "torch.compile needs Python's own headers (python3-dev), which are not installed"
        return ""

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> CompiledSession:
        """A fresh session. `threads` are PyTorch's own, set by the caller.

        Raises:
            InvalidRequest: the network is an ONNX graph.
            MissingDependency: there is nothing to compile with.
        """
        if isinstance(forms.network, OnnxNetwork):
            raise InvalidRequest(
                "A network that is an ONNX graph cannot be compiled by PyTorch.",
                hint="Leave 'compiled' out of 'latency.runtimes'.",
            )
        if reason := self.absent_on(device):
            raise MissingDependency(
                f"torch.compile cannot run on {device}: {reason}.",
                hint="Install it, or leave 'compiled' out of 'latency.runtimes'.",
            )
        return CompiledSession(forms.network, device=device, threads=threads)
