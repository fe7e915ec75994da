"""PyTorch without compilation: as one serves it, and, as the reference of every runtime, as it was trained."""

import copy
import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from engine.runtimes.session import Form, Forms, Precision

_log = logging.getLogger(__name__)


class EagerSession:
    """PyTorch without compilation, in eval and inference mode. CPU threads are PyTorch's own, set by the caller.

    `prepared` lays the network out channels-last and folds batch normalisation into the convolutions before it.
    """

    def __init__(self, network: nn.Module, *, device: torch.device, prepared: bool = True) -> None:
        # Training may have left one of the networks channels-last; both are compared in the same layout.
        self.layout = torch.channels_last if prepared else torch.contiguous_format
        own = copy.deepcopy(network).to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        own = folded(own) if prepared else own
        self._network: Callable[[Tensor], Tensor] = own.to(memory_format=self.layout)
        self._device = device
        self._events = _cuda_events() if device.type == "cuda" else None
        self._batches: list[Tensor] = []

    def feed(self, batches: Sequence[Tensor]) -> None:
        self._batches = [batch.contiguous(memory_format=self.layout).to(self._device) for batch in batches]

    def call(self, index: int) -> float | None:
        batch = self._batches[index % len(self._batches)]
        return self._timed(lambda: self._network(batch))

    def _timed(self, work: Callable[[], object]) -> float | None:
        """Do it, and give the seconds that the device's own events measured, or None where it has none."""
        if self._events is None:
            with torch.inference_mode():
                work()
            return None
        began, ended = self._events
        with torch.inference_mode():
            began.record()
            work()
            ended.record()
        torch.cuda.synchronize(self._device)
        return float(began.elapsed_time(ended)) / 1000

    def logits(self, images: Tensor) -> NDArray[np.float32]:
        # Outside of inference mode, as `feed` does it: torch.compile would compile anew for a tensor made inside.
        laid_out = images.contiguous(memory_format=self.layout).to(self._device)
        with torch.inference_mode():
            return np.asarray(self._network(laid_out).float().cpu().numpy())


def _cuda_events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event  # its constructor carries no annotations
    return event(enable_timing=True), event(enable_timing=True)


def folded(network: nn.Module) -> nn.Module:
    """`network` (in eval mode) with batch normalisation folded into the convolutions before it.

    Networks that torch.fx cannot follow, as where they branch on what they are given, stay as they are.
    """
    try:
        return fuse(network)
    except Exception as unclear:  # tracing runs the network's own code on stand-ins, which raises nearly anything
        _log.debug("%s is not folded: %s", type(network).__name__, unclear)
        return network


def reference(network: nn.Module, *, device: torch.device) -> EagerSession:
    """The network exactly as it was trained: what the answers of every runtime are held against."""
    return EagerSession(network, device=device, prepared=False)


class Eager:
    """The network in PyTorch, channels-last and with batch normalisation folded: what one serves without a compiler."""

    name = "eager"
    form: Form = "network"
    precision: Precision = "float32"

    def absent_on(self, device: torch.device) -> str:
        if device.type == "cuda" and not torch.cuda.is_available():
            return "PyTorch finds no CUDA device here"
        return ""

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> EagerSession:
        """A fresh session. `threads` are PyTorch's own, set by the caller."""
        return EagerSession(forms.network, device=device)
