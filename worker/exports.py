"""The student in the forms that others serve it in, each loaded again in a fresh process and held against it."""

from collections.abc import Mapping
from pathlib import Path

import torch

from distillery.spec import LatencySpec
from distillery.spec.job import ExportFormat
from engine import predict_script
from engine.checkpoint import written_whole
from engine.export import difference, export_onnx
from engine.latency.own_process import in_own_process
from engine.latency.samples import QualityImages, calibration
from engine.program import export_program
from engine.quantise import quantise
from engine.reloading import Reloaded, few, samples
from engine.runtimes import Forms, OnnxRuntimeInt8, reference
from worker.journal import Journal
from worker.parts import Part
from worker.ready import Ready

ENDINGS: dict[ExportFormat, str] = {
    "safetensors": "safetensors",
    "onnx": "onnx",
    "onnx-int8": "int8.onnx",
    "torch-export": "pt2",
}
_MEDIA = {"onnx": "application/octet-stream", "pt2": "application/zip"}


def deliver(ready: Ready, parts: Mapping[str, Part], *, journal: Journal) -> dict[str, Path]:
    """Deliver student and early exits in every form of the spec; gives their float32 ONNX files by role.

    Raises:
        ExportMismatch: a file does not give its network's answers.
        InvalidRequest: a network cannot be written in one of the forms.
    """
    asked, onnx = ready.spec.export, {}
    for role, part in parts.items():
        if role != "student" and not part.stage:
            continue
        files = _written(ready, role, part, journal=journal)
        _hold_against(part, files, ready=ready, journal=journal)
        for form, path in files.items():
            if form != "safetensors" and form in asked:
                journal.deliver(path, media_type=_MEDIA[path.suffix[1:]])
        if "onnx" in asked:
            onnx[role] = files["onnx"]
    if "student" in onnx:
        _deliver_script(ready, journal=journal)
    return onnx


def _written(ready: Ready, role: str, part: Part, *, journal: Journal) -> dict[ExportFormat, Path]:
    """The files of one network. An int8 graph is made of a float32 one, which is then written too."""
    data, network, asked = ready.dataset, part.known.network, ready.spec.export
    files: dict[ExportFormat, Path] = {"safetensors": part.saved}
    paths = {form: journal.out / f"{role}.{ending}" for form, ending in ENDINGS.items()}
    if "onnx" in asked or "onnx-int8" in asked:
        files["onnx"] = paths["onnx"]
        export_onnx(network, files["onnx"], channels=data.channels, image_size=data.image_size)
    if "onnx-int8" in asked:
        files["onnx-int8"] = paths["onnx-int8"]
        quantise(files["onnx"], files["onnx-int8"], calibration=calibration(data))
    if "torch-export" in asked:
        files["torch-export"] = paths["torch-export"]
        export_program(network, files["torch-export"], channels=data.channels, image_size=data.image_size)
    return files


def _hold_against(part: Part, files: Mapping[ExportFormat, Path], *, ready: Ready, journal: Journal) -> None:
    """Ask the files, in a process that has only them, and compare their answers with the network's."""
    data = few(ready.dataset)
    work = Reloaded(tuple(files.values()), data, architecture=part.known.architecture)
    answers = dict(zip(files, in_own_process(work, on_tick=journal.leave_when_asked), strict=True))
    eager = reference(part.known.network, device=ready.device).logits(samples(data))
    for form, logits in answers.items():
        if form != "onnx-int8":  # what eight bits cost is measured below, and told
            difference(logits, eager=eager, what=files[form].name)
    if "onnx-int8" in files:
        _tell_loss(part, files["onnx-int8"], ready=ready, journal=journal)


def _tell_loss(part: Part, int8: Path, *, ready: Ready, journal: Journal) -> None:
    """Warn where eight bits lose more accuracy than the spec allows."""
    quality = QualityImages.of(ready.dataset, slowest=part.known.network)
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    eager = quality.accuracy(quality.answers(reference(part.known.network, device=cpu).logits))
    eight = OnnxRuntimeInt8().load(Forms(part.known.network, int8=int8), device=cpu, threads=threads)
    lost = eager - quality.accuracy(quality.answers(eight.logits))
    allowed = (ready.spec.latency or LatencySpec()).max_accuracy_drop
    if lost > allowed:
        journal.warn(
            f"{int8.name} loses {100 * lost:.1f} points of accuracy on {len(quality)} test images, where "
            f"{100 * allowed:.1f} are allowed.",
        )


def _deliver_script(ready: Ready, *, journal: Journal) -> None:
    """How to ask `student.onnx`, for those who have neither Distillery nor torch."""
    data, path = ready.dataset, journal.out / "predict.py"
    script = predict_script.render(
        classes=data.classes, image_size=data.image_size, channels=data.channels, mean=data.mean, std=data.std
    )
    with written_whole(path) as writer:
        writer.write(script.encode())
    journal.deliver(path, media_type="text/x-python")
