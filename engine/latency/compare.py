"""The latency report: every comparison that was asked for and can be made, with what makes it believable."""

import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from distillery.errors import InvalidRequest
from distillery.report import LatencyReport
from distillery.spec import LatencySpec
from engine import black_boxes, environment, runtimes
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset
from engine.latency.bench import Bench, cpu_threads
from engine.latency.encoded import SampleImages
from engine.latency.loading import Setting, Subject
from engine.latency.places import Place, for_graph, in_forms, planned
from engine.latency.samples import QualityImages, write_samples

PROTOCOL = "distillery-latency/2"
NOTES = (
    "The control is the same student loaded a second time and measured in every round like a contestant of its own.",
    "Cold start is the first call of a freshly loaded network; the libraries themselves were loaded before.",
    "Peak memory is what loading a network and its first call add: resident memory on the CPU (approximate), "
    "PyTorch's own allocations on CUDA.",
    "The intervals cover the loads and rounds of this run; another run may differ by more than they tell. "
    "Those of the percentiles take the calls as independent.",
)


_NO_TIME = (
    "The latency was not measured: the teacher is, or holds, a table of answers or several ONNX graphs, whose time "
    "would say nothing."
)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A network to be timed and the file of its weights. `onnx` is its export, where there is one."""

    network: nn.Module
    weights: Path
    onnx: Path | None = None


def compare(
    teacher: Contestant,
    *,
    student: Contestant,
    dataset: Dataset,
    spec: LatencySpec,
    repeat_with: str,
    samples_file: Path | None = None,
    on_block: Callable[[], None] = lambda: None,
) -> LatencyReport:
    """Time student against teacher in every runtime, batch size and device of `spec`.

    Each comparison runs in a process of its own and may take `spec.seconds`; it takes longer only where 30 rounds need
    it. One that breaks off is told among the failures, and the others stand. `on_block` is called several times a
    second; what it raises abandons the measurement. The raw times go to `samples_file`, Parquet or CSV by its name.

    Raises:
        ExportMismatch: an export does not give its network's answers.
        InvalidRequest: the teacher holds a table of answers, or nothing of what was asked for can be measured here.
        StorageFull: no space is left for an export or for the raw times.
    """
    if black_boxes.holds_table(teacher.network) or _merges_graphs(teacher.network):
        raise InvalidRequest(_NO_TIME, pointer="/latency")
    with tempfile.TemporaryDirectory(prefix="distillery-latency-") as folder, cpu_threads(spec.threads):
        quality = QualityImages.of(dataset, slowest=teacher.network)
        pair = (
            _subject("teacher", teacher, dataset=dataset, quality=quality),
            _subject("student", student, dataset=dataset, quality=quality),
        )
        pair, places, notes = _made_ready(pair, spec, dataset=dataset, folder=Path(folder), quality=quality)
        images, setting = SampleImages.of(dataset, encoded="end_to_end" in spec.inputs), Setting.of(spec, quality)
        bench = Bench(pair, places, dataset=dataset, images=images, spec=spec, setting=setting, on_block=on_block)
        measured, failures = bench.comparisons()
        sweeps, servers, broken = bench.scenarios()
    if samples_file is not None:
        write_samples((timed for _, timed in measured), samples_file)
    on_images = f"Accuracy and agreement are of {len(quality)} of the {len(dataset.test)} test images, spread evenly."
    described = environment.describe(threads=spec.threads)
    return LatencyReport(
        protocol=PROTOCOL,
        comparisons=tuple(comparison for comparison, _ in measured),
        sweeps=sweeps,
        servers=servers,
        failures=failures + broken,
        environment={**described, "layout": "channels-last in PyTorch, NCHW elsewhere", "data": dataset.name},
        fingerprint=environment.fingerprint(described),
        weights_sha256={"teacher": sha256_of(teacher.weights), "student": sha256_of(student.weights)},
        repeat_with=repeat_with,
        notes=(*notes, on_images, *NOTES),
    )


def _made_ready(
    pair: tuple[Subject, Subject], spec: LatencySpec, *, dataset: Dataset, folder: Path, quality: QualityImages
) -> tuple[tuple[Subject, Subject], tuple[Place, ...], tuple[str, ...]]:
    """Both networks with the files that runtimes load, where they can be measured, and why not elsewhere."""
    places, notes = planned(spec)
    if black_boxes.is_opaque(pair[0].network):
        places, left_out = for_graph(places)
        notes += left_out
    pair, places, impossible = in_forms(pair, places, dataset=dataset, folder=folder, samples=quality.batches[0])
    notes += impossible
    if not places:
        raise InvalidRequest(f"Nothing can be measured. {' '.join(notes)}", pointer="/latency")
    return pair, places, notes


def repeat_command(*, job: str, teacher: str, student: str, threads: int | None = None) -> str:
    """The line that repeats a measurement, from the names of the files it reads."""
    words = ["python", "-m", "engine.latency", "--job", job, "--teacher", teacher, "--student", student]
    if threads is not None:
        words += ["--threads", str(threads)]
    return shlex.join([*words, "--out", "latency"])


def _merges_graphs(network: nn.Module) -> bool:
    return black_boxes.holds_graph(network) and len(black_boxes.members(network)) > 1


def _subject(
    model: Literal["teacher", "student"], contestant: Contestant, *, dataset: Dataset, quality: QualityImages
) -> Subject:
    network = contestant.network
    eager = runtimes.reference(network, device=torch.device("cpu"))
    return Subject(
        model=model,
        network=network,
        weights=contestant.weights,
        onnx=contestant.onnx,
        int8=None,
        parameters=black_boxes.parameters(network),
        macs=black_boxes.multiply_adds(network, channels=dataset.channels, image_size=dataset.image_size),
        eager=quality.answers(eager.logits),
    )
