"""The latency report: every comparison that was asked for and can be made, with what makes it believable."""

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from distillery.errors import (
    DistilleryError,
    ExportMismatch,
    InvalidRequest,
    MissingDependency,
    OutOfMemory,
    RuntimeCrashed,
)  # fmt: skip
from distillery.report import LatencyComparison, LatencyFailure, LatencyReport
from distillery.spec import LatencySpec
from engine import black_boxes, environment, runtimes
from engine.black_box import OnnxNetwork
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset
from engine.export import check_onnx, export_onnx
from engine.latency.cell import measure
from engine.latency.loading import Cell, Setting, Subject
from engine.latency.own_process import in_own_process
from engine.latency.samples import QualityImages, Timed, batches, calibration, write_samples
from engine.quantise import quantise

PROTOCOL = "distillery-latency/2"
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
        pair, cells, impossible = _in_forms(
            pair, cells, dataset=dataset, folder=Path(folder), samples=quality.batches[0]
        )
        notes += impossible
        if not cells:
            raise InvalidRequest(f"Nothing can be measured. {' '.join(notes)}", pointer="/latency")
        setting = Setting(
            threads=spec.threads,
            rounds=spec.rounds,
            quality=quality,
            budget_seconds=spec.seconds,
            max_accuracy_drop=spec.max_accuracy_drop,
        )
        measured, failures = _measured(pair, cells, dataset=dataset, setting=setting, seed=spec.seed, on_block=on_block)
    if samples_file is not None:
        write_samples((timed for _, timed in measured), samples_file)
    on_images = f"Accuracy and agreement are of {len(quality)} of the {len(dataset.test)} test images, spread evenly."
    described = environment.describe(threads=spec.threads)
    return LatencyReport(
        protocol=PROTOCOL,
        comparisons=tuple(comparison for comparison, _ in measured),
        failures=failures,
        environment={**described, "layout": "NCHW", "data": dataset.name},
        fingerprint=environment.fingerprint(described),
        weights_sha256={"teacher": sha256_of(teacher.weights), "student": sha256_of(student.weights)},
        repeat_with=repeat_with,
        notes=(*notes, on_images, *NOTES),
    )


def _measured(
    pair: tuple[Subject, Subject],
    cells: tuple[Cell, ...],
    *,
    dataset: Dataset,
    setting: Setting,
    seed: int,
    on_block: Callable[[], None],
) -> tuple[list[tuple[LatencyComparison, Timed]], tuple[LatencyFailure, ...]]:
    """Every comparison that came to its end, and what became of the others."""
    measured: list[tuple[LatencyComparison, Timed]] = []
    failed: list[tuple[Cell, DistilleryError]] = []
    for number, cell in enumerate(cells):
        alone = _Alone(cell, pair, batches(dataset, batch_size=cell.batch_size), setting, seed=(seed, number))
        try:
            measured.append(in_own_process(alone, on_tick=on_block))
        except (RuntimeCrashed, ExportMismatch, MissingDependency, InvalidRequest) as error:
            failed.append((cell, error))
    broken = [cell for cell, _ in failed]
    done = [cell for cell in cells if cell not in broken]
    return measured, tuple(_failure(cell, error, done=done) for cell, error in failed)


@dataclass(frozen=True, eq=False)
class _Alone:
    """One comparison, in a form that another process can take up."""

    cell: Cell
    pair: tuple[Subject, Subject]
    batches: tuple[Tensor, ...]
    setting: Setting
    seed: tuple[int, int]

    def __call__(self, tick: Callable[[], None]) -> tuple[LatencyComparison, Timed]:
        with _cpu_threads(self.setting.threads):
            return measure(
                self.cell,
                teacher=self.pair[0],
                student=self.pair[1],
                batches=self.batches,
                setting=self.setting,
                rng=np.random.default_rng(self.seed),
                on_block=tick,
            )


def _failure(cell: Cell, error: DistilleryError, *, done: Sequence[Cell]) -> LatencyFailure:
    detail, hint = error.detail, error.hint
    if isinstance(error, OutOfMemory):
        fitted = [each.batch_size for each in done if (each.runtime, each.device) == (cell.runtime, cell.device)]
        largest = f"the largest batch that did was {max(fitted)}" if fitted else "no other batch was measured here"
        detail = f"A batch of {cell.batch_size} does not fit into memory; {largest}. ({error.detail})"
        hint = "Use a smaller batch."
    return LatencyFailure(
        runtime=cell.runtime.name, device=cell.device.type, batch_size=cell.batch_size, detail=detail, hint=hint
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
    kept = tuple(cell for cell in cells if cell.runtime.form == "onnx")
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
    eager = runtimes.reference(network, device=torch.device("cpu"))
    return Subject(
        model=model,
        network=network,
        weights=contestant.weights,
        onnx=contestant.onnx,
        int8=None,
        parameters=black_boxes.parameters(network),
        macs=black_boxes.multiply_adds(network, channels=dataset.channels, image_size=dataset.image_size),
        eager=quality.answers(eager),
    )


def _in_forms(
    pair: tuple[Subject, Subject], cells: tuple[Cell, ...], *, dataset: Dataset, folder: Path, samples: Tensor
) -> tuple[tuple[Subject, Subject], tuple[Cell, ...], tuple[str, ...]]:
    """Give both subjects the files that the cells load; where one cannot be made, leave out the cells that need it."""

    def with_onnx(subject: Subject) -> Subject:
        if isinstance(subject.network, OnnxNetwork):
            return subject
        path = subject.onnx
        if path is None:
            path = folder / f"{subject.model}.onnx"
            export_onnx(subject.network, path, channels=dataset.channels, image_size=dataset.image_size)
        check_onnx(path, subject.network, samples=samples)
        return replace(subject, onnx=path)

    def with_int8(subject: Subject) -> Subject:
        path = folder / f"{subject.model}.int8.onnx"
        quantise(Path(subject.onnx or ""), path, calibration=calibration(dataset))
        return replace(subject, int8=path)

    notes: list[str] = []
    for forms, make in ((("onnx", "int8"), with_onnx), (("int8",), with_int8)):
        if not any(cell.runtime.form in forms for cell in cells):
            continue
        try:
            pair = make(pair[0]), make(pair[1])
        except InvalidRequest as impossible:
            left_out = sorted({cell.runtime.name for cell in cells if cell.runtime.form in forms})
            notes.append(f"Not measured: {', '.join(left_out)}. {impossible.detail}")
            cells = tuple(cell for cell in cells if cell.runtime.form not in forms)
    return pair, cells, tuple(notes)
