"""Makes the forms in which a frozen network may answer: folded, in ONNX Runtime, in OpenVINO."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distillery.errors import InvalidRequest, MissingDependency
from engine import runtimes
from engine.export import export_onnx
from engine.precision import memory_format
from engine.quantise import quantise
from engine.runtimes import Forms
from engine.runtimes.eager import folded
from engine.teachers import Form

FOLDED = "folded"
NAMES = (FOLDED, "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8")
"""All but the first are runtimes of the latency protocol, on the CPU. What is cheaper to make is tried first."""
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}
_CALIBRATION_BATCH = 32


class FormMaker:
    """Makes forms of one network, and each file that they are loaded from once, into `folder`.

    A form needs neither the folder nor the maker once it is made. `batch` [B, C, H, W] shows the shape in which it will
    mostly be asked; others are answered too. `calibrating` are images that eight bits are calibrated on.
    """

    def __init__(self, network: nn.Module, *, calibrating: Tensor, batch: Tensor, folder: Path) -> None:
        self._network, self._calibrating, self._batch, self._folder = network, calibrating, batch, folder
        self._failed: dict[str, Exception] = {}

    def make(self, name: str) -> Form:
        """The form called `name`, one of `NAMES`.

        Raises:
            distillery.errors.DistilleryError: it is not to be had here, or not of this network.
            Exception: whatever an exporter or a runtime raises.
        """
        if name == FOLDED:
            return self._fold()
        if self._batch.device.type != "cpu":
            raise InvalidRequest(f"{name} answers on the CPU, and this run is on {self._batch.device}.")
        runtime, device = runtimes.find(name), torch.device("cpu")
        if reason := runtime.absent_on(device):
            raise MissingDependency(f"{name} cannot run here: {reason}.")
        onnx = self._file("onnx")
        forms = Forms(self._network, onnx=onnx, int8=self._file("int8") if runtime.form == "int8" else None)
        session = runtime.load(forms, device=device, threads=torch.get_num_threads())
        session.feed([self._batch.contiguous()])
        precision = _PRECISIONS[runtime.precision]

        def logits(images: Tensor) -> Tensor:
            return torch.from_numpy(session.logits(images))

        return Form(name.removesuffix(f"-{precision}"), precision, logits)

    def _fold(self) -> Form:
        """The network with batch normalisation folded into the convolutions before it, in the caller's precision."""
        norms = _norms(self._network)
        if not norms:
            raise InvalidRequest("There is no batch normalisation to fold.")
        own = folded(copy.deepcopy(self._network).eval()).requires_grad_(False)
        if _norms(own) == norms:
            raise InvalidRequest("Its batch normalisation cannot be folded: PyTorch cannot follow what it computes.")
        own = own.to(memory_format=memory_format(own))

        def logits(images: Tensor) -> Tensor:
            with torch.no_grad():
                answers: Tensor = own(images)
            return answers

        return Form(FOLDED, "", logits)

    def _file(self, form: str) -> Path:
        """The file of that form. What failed once is not tried again: an export takes seconds."""
        path = self._folder / f"{form}.onnx"
        if path.exists():
            return path
        if form in self._failed:
            raise self._failed[form]
        try:
            if form == "onnx":
                _, channels, size, _ = self._batch.shape
                export_onnx(self._network, path, channels=channels, image_size=size)
            else:
                images = self._calibrating.contiguous().numpy()
                parts = [images[at : at + _CALIBRATION_BATCH] for at in range(0, len(images), _CALIBRATION_BATCH)]
                quantise(self._file("onnx"), path, calibration=parts)
        except Exception as failed:
            self._failed[form] = failed
            raise
        return path


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())
