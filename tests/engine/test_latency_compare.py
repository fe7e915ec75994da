"""The whole protocol on real networks: what it reports follows from its raw samples, and it refuses what is unsound."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any, cast

import numpy as np
import onnx
import pyarrow.parquet as parquet
import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ExportMismatch, InvalidRequest
from distillery.report import LatencyReport
from distillery.spec import LatencySpec
from engine import intervals
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset, Split
from engine.evaluate import accuracy, predict
from engine.export import export_onnx
from engine.latency import Contestant, compare, repeat_command
from engine.latency.memory import peak_growth
from engine.latency.samples import COLUMNS, batches
from engine.weights import save_safetensors

CPU = torch.device("cpu")


def _split(n: int) -> Split:
    generator = torch.Generator().manual_seed(n)
    return Split(
        images=torch.randint(0, 256, (n, 1, 12, 12), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 4, (n,), generator=generator),
        ids=torch.arange(n),
    )


DATASET = Dataset(
    name="noise", classes=("a", "b", "c", "d"), channels=1, image_size=12, mean=(0.5,), std=(0.25,),
    train=_split(40), validation=_split(20), test=_split(90), sha256="0" * 64, notes=(),
)  # fmt: skip


def _network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


def _contestant(network: nn.Module, path: Path) -> Contestant:
    save_safetensors(network, path, metadata={})
    return Contestant(network=network, weights=path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contestant, Contestant]:
    folder = tmp_path_factory.mktemp("weights")
    return _contestant(_network(48), folder / "teacher"), _contestant(_network(4), folder / "student")


@pytest.fixture(scope="module")
def measured(
    pair: tuple[Contestant, Contestant], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LatencyReport, list[dict[str, Any]]]]:
    path = tmp_path_factory.mktemp("latency") / "latency_samples.parquet"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report = compare(
            pair[0],
            student=pair[1],
            dataset=DATASET,
            spec=LatencySpec(batch_sizes=(2,), seed=5, seconds=10),
            repeat_with="the command",
            samples_file=path,
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    yield report, parquet.read_table(path).to_pylist()


def test_there_is_a_comparison_for_each_runtime_with_teacher_and_student(
    measured: tuple[LatencyReport, list[dict[str, Any]]], pair: tuple[Contestant, Contestant]
) -> None:
    report, _ = measured
    assert [comparison.runtime for comparison in report.comparisons] == ["eager", "onnxruntime"]
    for comparison in report.comparisons:
        assert [row.model for row in comparison.rows] == ["teacher", "student"]
        assert (comparison.batch_size, comparison.device, comparison.threads) == (2, "cpu", 1)
        assert comparison.rounds >= 30
        assert comparison.verdict == intervals.verdict(comparison.speedup, control=comparison.control)
    assert report.weights_sha256["teacher"] == sha256_of(pair[0].weights)
    assert report.weights_sha256["student"] == sha256_of(pair[1].weights)
    assert report.repeat_with == "the command"
    assert {"cpu", "versions", "threads", "load_average_1min", "python"} <= report.environment.keys()
    assert LatencyReport.model_validate_json(report.model_dump_json()) == report


def test_the_figures_can_be_computed_again_from_the_raw_samples(
    measured: tuple[LatencyReport, list[dict[str, Any]]],
) -> None:
    report, rows = measured
    assert tuple(rows[0]) == COLUMNS
    for comparison in report.comparisons:
        mine = [row for row in rows if row["runtime"] == comparison.runtime]
        last = sorted({int(row["round"]) for row in mine})[-comparison.rounds :]

        def times(model: str, number: int, rows: list[dict[str, Any]] = mine) -> list[float]:
            return [float(row["seconds"]) for row in rows if row["model"] == model and int(row["round"]) == number]

        for of, against, told in (
            ("teacher", "student", comparison.speedup),
            ("student", "control", comparison.control),
        ):
            logs = [math.log(median(times(of, number)) / median(times(against, number))) for number in last]
            assert math.exp(fmean(logs)) == pytest.approx(told.value, rel=1e-4)
            assert told.low <= told.value <= told.high
        for row in comparison.rows:
            calls = [seconds for number in last for seconds in times(row.model, number)]
            assert row.n == len(calls)
            assert row.p50.seconds == pytest.approx(sorted(calls)[math.ceil(row.n / 2) - 1], abs=1e-8)
            assert row.mean_seconds == pytest.approx(fmean(calls), rel=1e-4)
            assert row.images_per_second == pytest.approx(2 / fmean(calls), rel=1e-4)


def test_the_rows_tell_size_quality_and_memory(
    measured: tuple[LatencyReport, list[dict[str, Any]]], pair: tuple[Contestant, Contestant]
) -> None:
    report, _ = measured
    for contestant, place in ((pair[0], 0), (pair[1], 1)):
        logits = predict(contestant.network, DATASET.test, mean=(0.5,), std=(0.25,), device=CPU)
        for comparison in report.comparisons:
            row = comparison.rows[place]
            assert row.accuracy == pytest.approx(accuracy(logits, DATASET.test.labels))
            assert row.agreement == 1
            assert row.parameters == sum(each.numel() for each in contestant.network.parameters())
            assert row.cold_start_seconds > 0
            assert row.warmup_calls > 0
            assert row.peak_memory_bytes is None or row.peak_memory_bytes >= 0
    eager, exported = report.comparisons
    assert eager.rows[0].file_bytes == pair[0].weights.stat().st_size
    assert exported.rows[0].file_bytes > 4 * exported.rows[0].parameters
    assert eager.rows[0].macs == 144 * (48 * 9 + 48 * 48 * 9) + 48 * 4


def test_a_tampered_export_is_refused_before_anything_is_timed(
    pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    path = tmp_path / "student.onnx"
    export_onnx(pair[1].network, path, channels=1, image_size=12)
    model = onnx.load(path)
    weight = model.graph.initializer[-1]
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.1), weight.name))
    onnx.save(model, path)
    student = Contestant(network=pair[1].network, weights=pair[1].weights, onnx=path)

    def never() -> None:
        raise AssertionError("a block was timed")

    with pytest.raises(ExportMismatch, match=r"student\.onnx"):
        compare(
            pair[0],
            student=student,
            dataset=DATASET,
            spec=LatencySpec(runtimes=("onnxruntime",)),
            repeat_with="",
            on_block=never,
        )


class Bessel(nn.Module):
    """Runs, and cannot be exported: ONNX has no such function."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 4)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.last(torch.special.bessel_j1(images.mean(dim=(2, 3)))))


class Abandoned(Exception):
    """Raised between blocks by a caller who wants to stop."""


def test_what_cannot_be_measured_here_is_said_and_left_out(
    pair: tuple[Contestant, Contestant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    teacher = _contestant(Bessel(), tmp_path / "teacher")
    spec = LatencySpec(devices=("cuda", "cpu"), seconds=1)
    report = compare(teacher, student=pair[1], dataset=DATASET, spec=spec, repeat_with="")
    assert [comparison.runtime for comparison in report.comparisons] == ["eager"]
    notes = " ".join(report.notes)
    assert "Not measured: eager on cuda" in notes
    assert "Not measured: onnxruntime on cuda" in notes
    assert "Bessel cannot be written as ONNX" in notes


def test_nothing_measurable_is_an_error_with_the_reasons(
    pair: tuple[Contestant, Contestant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = LatencySpec(devices=("cuda",), runtimes=("eager",))
    with pytest.raises(InvalidRequest, match="eager on cuda, because PyTorch finds no CUDA device"):
        compare(pair[0], student=pair[1], dataset=DATASET, spec=spec, repeat_with="")


def test_a_caller_may_abandon_the_measurement_and_the_threads_are_restored(
    pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    def abandon() -> None:
        raise Abandoned

    threads, path = torch.get_num_threads(), tmp_path / "samples.parquet"
    with pytest.raises(Abandoned):
        compare(
            pair[0],
            student=pair[1],
            dataset=DATASET,
            spec=LatencySpec(runtimes=("eager",), threads=3),
            repeat_with="",
            samples_file=path,
            on_block=abandon,
        )
    assert torch.get_num_threads() == threads
    assert not path.exists()


def test_sample_batches_are_normalised_test_images_and_go_round_a_small_split() -> None:
    made = batches(DATASET, batch_size=64)
    assert len(made) == 8
    assert {tuple(batch.shape) for batch in made} == {(64, 1, 12, 12)}
    first = (DATASET.test.images[:64].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(made[0], first)
    torch.testing.assert_close(made[1][26:], first[:38])


GROWS = """
import numpy as np, torch
from engine.latency.memory import peak_growth

def allocate():
    blocks = [np.ones(50_000) for _ in range(100)]  # 40 MB in pieces that the allocator would keep for itself
    return len(blocks)

for _ in range(2):
    print(*peak_growth(allocate, device=torch.device("cpu"), in_torch=True))
"""


def test_resident_growth_sees_memory_that_an_earlier_tenant_has_freed() -> None:
    """In a process of its own, as it is measured: threads that other tests have left give memory back meanwhile."""
    told = subprocess.run([sys.executable, "-c", GROWS], capture_output=True, text=True, check=True).stdout
    for made, grown in (line.split() for line in told.splitlines()):
        assert made == "100"
        assert grown == "None" or 35_000_000 < int(grown) < 80_000_000
    assert len(told.splitlines()) == 2


def test_resident_growth_is_not_told_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("engine.latency.memory._CLEAR", tmp_path / "absent" / "clear_refs")
    assert peak_growth(lambda: "made", device=CPU, in_torch=True) == ("made", None)


def test_the_repeating_command_quotes_what_needs_it() -> None:
    told = repeat_command(job="my job.json", teacher="t.safetensors", student="s.safetensors", threads=2)
    assert told == (
        "python -m engine.latency --job 'my job.json' --teacher t.safetensors --student s.safetensors "
        "--threads 2 --out latency"
    )


def test_end_to_end_is_a_comparison_of_its_own_and_takes_longer(
    pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    spec = LatencySpec(runtimes=("onnxruntime",), inputs=("model", "end_to_end"), seconds=4)
    path = tmp_path / "samples.parquet"
    report = compare(pair[0], student=pair[1], dataset=DATASET, spec=spec, repeat_with="", samples_file=path)
    alone, whole = report.comparisons
    assert (alone.place, whole.place) == ("onnxruntime, batch 1, cpu", "onnxruntime, batch 1, cpu, from encoded bytes")
    assert [row.input for row in whole.rows] == ["end_to_end", "end_to_end"]
    assert [row.agreement for row in whole.rows] == [1, 1]
    for one, other in zip(alone.rows, whole.rows, strict=True):
        assert cast(float, other.p50.seconds) > cast(float, one.p50.seconds)
    assert {row["input"] for row in parquet.read_table(path).to_pylist()} == {"model", "end_to_end"}


def test_sweeps_and_servers_are_asked_for_without_a_comparison(pair: tuple[Contestant, Contestant]) -> None:
    spec = LatencySpec(runtimes=("eager",), scenarios=("batch_sweep", "server"), seconds=2, p99_seconds=0.1)
    report = compare(pair[0], student=pair[1], dataset=DATASET, spec=spec, repeat_with="")
    assert (report.comparisons, report.failures) == ((), ())
    assert [(each.model, each.runtime) for each in report.sweeps] == [("teacher", "eager"), ("student", "eager")]
    assert [each.model for each in report.servers] == ["teacher", "student"]
    assert {each.objective_seconds for each in report.servers} == {0.1}


class CrashesLate(nn.Module):
    """Answers as it is checked, and ends the process without a word when it is asked for batches of five."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[0] == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        return cast(Tensor, self.last(images.flatten(1)))


def test_a_crash_costs_its_row_and_names_where(pair: tuple[Contestant, Contestant], tmp_path: Path) -> None:
    teacher = _contestant(CrashesLate(), tmp_path / "teacher")
    spec = LatencySpec(runtimes=("eager",), batch_sizes=(5, 2), seconds=2)
    report = compare(teacher, student=pair[1], dataset=DATASET, spec=spec, repeat_with="")
    assert [each.batch_size for each in report.comparisons] == [2]
    (failure,) = report.failures
    assert failure.place == "eager, batch 5, cpu"
    assert "SIGSEGV" in failure.detail


class Greedy(nn.Module):
    """Runs out of memory from batches of three on."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        if 3 <= images.shape[0] < 16:
            raise MemoryError
        return cast(Tensor, self.last(images.flatten(1)))


def test_a_batch_that_does_not_fit_names_the_largest_that_did(
    pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    teacher = _contestant(Greedy(), tmp_path / "teacher")
    spec = LatencySpec(runtimes=("eager",), batch_sizes=(1, 2, 3), seconds=1)
    report = compare(teacher, student=pair[1], dataset=DATASET, spec=spec, repeat_with="")
    assert [each.batch_size for each in report.comparisons] == [1, 2]
    assert "A batch of 3 does not fit into memory; the largest batch that did was 2." in report.failures[0].detail
