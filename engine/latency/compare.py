"""The latency report: every comparison that was asked for and can be made, with what makes it believable."""

import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.report import LatencyReport
from distillery.spec import LatencySpec
from engine import black_boxes, environment, runtimes
from engine.black_box import OnnxNetwork
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset
from engine.export import check_onnx, export_onnx
from engine.latency.cell import Cell, Setting, Subject, measure
from engine.latency.samples import QualityImages, batches, write_csv

PROTOCOL = "distillery-latency/1"
BUDGET_SECONDS = 60.0
NOTES = (
    "The control is the same student loaded a second time and measured in every round like a contestant of its own.",
    "Cold start is the first call of a freshly loaded network; the libraries themselves were loaded before.",
    "Peak memory is what loading a network and its first call add: resident memory on the CPU (approximate), "
    "PyTorch's own allocations on CUDA.",
    "The intervals cover the rounds of this run; another run on this machine may differ by 5 to 10 % more. "
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
    budget_seconds: float = BUDGET_SECONDS,
    on_block: Callable[[], None] = lambda: None,
) -> LatencyReport:
    """Time student against teacher in every runtime, batch size and device of `spec`.

    Each comparison is planned to take `budget_seconds`; it takes longer only where 30 rounds need it. `on_block` is
    called between blocks; what it raises abandons the measurement. The raw times go to `samples_file` as CSV.

    Raises:
        ExportMismatch: an export does not give its network's answers.
        InvalidRequest: the teacher holds a table of answers, or nothing of what was asked for can be measured here.
        StorageFull: no space is left for an export or for the raw times.
    """
    if black_boxes.holds_table(teacher.network) or _merges_graphs(teacher.network):
        raise InvalidRequest(_NO_TIME, pointer="/latency")
    with tempfile.TemporaryDirectory(prefix="distillery-latency-") as folder, _cpu_threads(spec.threads):
        quality = QualityImages.of(dataset, slowest=teacher.network)
        pair = (
            _subject("teacher", teacher, dataset=dataset, quality=quality),
            _subject("student", student, dataset=dataset, quality=quality),
        )
        cells, notes = planned(spec)
        if black_boxes.is_opaque(teacher.network):
            cells, left_out = _for_graph(cells)
            notes += left_out
        if any(cell.runtime.form != "network" for cell in cells):
            pair, cells, impossible = _exported(
                pair, cells, dataset=dataset, folder=Path(folder), samples=quality.batches[0]
            )
            notes += impossible
        if not cells:
            raise InvalidRequest(f"Nothing can be measured. {' '.join(notes)}", pointer="/latency")
        setting = Setting(
            threads=spec.threads, rounds=spec.rounds, quality=quality, budget_seconds=budget_seconds, on_block=on_block
        )
        measured = [
            measure(
                cell,
                teacher=pair[0],
                student=pair[1],
                batches=batches(dataset, batch_size=cell.batch_size),
                setting=setting,
                rng=np.random.default_rng([spec.seed, number]),
            )
            for number, cell in enumerate(cells)
        ]
    if samples_file is not None:
        write_csv((timed for _, timed in measured), samples_file)
    on_images = f"Accuracy and agreement are of {len(quality)} of the {len(dataset.test)} test images, spread evenly."
    described = environment.describe(threads=spec.threads)
    return LatencyReport(
        protocol=PROTOCOL,
        comparisons=tuple(comparison for comparison, _ in measured),
        environment={**described, "dtype": "float32", "layout": "NCHW", "data": dataset.name},
        weights_sha256={"teacher": sha256_of(teacher.weights), "student": sha256_of(student.weights)},
        repeat_with=repeat_with,
        notes=(*notes, on_images, *NOTES),
    )


def repeat_command(*, job: str, teacher: str, student: str, threads: int | None = None) -> str:
    """The line that repeats a measurement, from the names of the files it reads."""
    words = ["python", "-m", "engine.latency", "--job", job, "--teacher", teacher, "--student", student]
    if threads is not None:
        words += ["--threads", str(threads)]
    return shlex.join([*words, "--out", "latency"])


def _merges_graphs(network: nn.Module) -> bool:
    return black_boxes.holds_graph(network) and len(black_boxes.members(network)) > 1


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    """PyTorch's CPU threads for as long as the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def planned(spec: LatencySpec) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """What of `spec` this machine can measure, and a sentence for each runtime and device that it cannot."""
    cells: list[Cell] = []
    notes = []
    for device in dict.fromkeys(map(_resolved, spec.devices)):
        for name in dict.fromkeys(spec.runtimes):
            runtime = runtimes.find(name)
            if reason := runtime.absent_on(torch.device(device)):
                notes.append(f"Not measured: {name} on {device}, because {reason}.")
                continue
            cells += [Cell(runtime, torch.device(device), size) for size in dict.fromkeys(spec.batch_sizes)]
    return tuple(cells), tuple(notes)


def _for_graph(cells: tuple[Cell, ...]) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """What of it an ONNX graph can be measured in: both sides run in the same runtime, and it runs in no other."""
    kept = tuple(cell for cell in cells if cell.runtime.form != "network")
    names = sorted({cell.runtime.name for cell in cells} - {cell.runtime.name for cell in kept})
    why = "because the teacher is an ONNX graph, and both sides are timed in one runtime"
    return kept, tuple(f"Not measured: {name}, {why}." for name in names)


def _resolved(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _subject(
    model: Literal["teacher", "student"], contestant: Contestant, *, dataset: Dataset, quality: QualityImages
) -> Subject:
    network = contestant.network
    eager = runtimes.Eager().load(runtimes.Forms(network), device=torch.device("cpu"), threads=torch.get_num_threads())
    return Subject(
        model=model,
        network=network,
        weights=contestant.weights,
        onnx=contestant.onnx,
        parameters=black_boxes.parameters(network),
        macs=black_boxes.multiply_adds(network, channels=dataset.channels, image_size=dataset.image_size),
        eager=quality.answers(eager),
    )


def _exported(
    pair: tuple[Subject, Subject], cells: tuple[Cell, ...], *, dataset: Dataset, folder: Path, samples: Tensor
) -> tuple[tuple[Subject, Subject], tuple[Cell, ...], tuple[str, ...]]:
    """Give both subjects a checked ONNX file; where a network cannot be exported, leave out the cells that need one."""

    def with_onnx(subject: Subject) -> Subject:
        if isinstance(subject.network, OnnxNetwork):
            return subject
        path = subject.onnx
        if path is None:
            path = folder / f"{subject.model}.onnx"
            export_onnx(subject.network, path, channels=dataset.channels, image_size=dataset.image_size)
        check_onnx(path, subject.network, samples=samples)
        return replace(subject, onnx=path)

    try:
        return (with_onnx(pair[0]), with_onnx(pair[1])), cells, ()
    except InvalidRequest as impossible:
        kept = tuple(cell for cell in cells if cell.runtime.form == "network")
        left_out = ", ".join(sorted({cell.runtime.name for cell in cells} - {cell.runtime.name for cell in kept}))
        return pair, kept, (f"Not measured: {left_out}. {impossible.detail}",)
