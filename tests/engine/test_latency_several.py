"""Any number of networks against one: a report in which each has its name, and what breaks off costs nobody else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from markupsafe import escape
from pyarrow import parquet
from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.report import Estimated, LatencyReport, Sweep, SweepPoint
from distillery.spec import LatencySpec
from engine import benchmark_page
from engine.checkpoint import sha256_of
from engine.latency import Contestant
from engine.latency.samples import COLUMNS
from engine.latency.several import ALONE, Named, compare_several
from engine.renormalised import Renormalised
from engine.weights import save_safetensors
from tests.engine.test_latency_compare import DATASET
from tests.latency_reports import against

SPEC = LatencySpec(runtimes=("eager",), batch_sizes=(2,), seconds=1)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
    )


class Broken(nn.Module):
    """Answers as long as it is asked for a few images, and has no memory for the batches that are timed."""

    def __init__(self, within: nn.Module) -> None:
        super().__init__()
        self.within = within

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == SPEC.batch_sizes[0]:
            raise RuntimeError("No memory for the student\nat line 3")
        answers: Tensor = self.within(images)
        return answers


def named(name: str, made: nn.Module, folder: Path) -> Named:
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    save_safetensors(made, path, metadata={})
    return Named(name, Contestant(made, weights=path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def models(folder: Path) -> list[Named]:
    weights = folder / "weights"
    weights.mkdir()
    made = {"small": network(4), "the teacher": network(32), "<b>mid</b>": network(8), "broken": Broken(network(4))}
    return [named(name, each, weights) for name, each in made.items()]


@pytest.fixture(scope="module")
def measured(models: list[Named], folder: Path) -> Iterator[tuple[LatencyReport, list[tuple[int, int]]]]:
    told: list[tuple[int, int]] = []
    report = compare_several(
        models, reference="the teacher", dataset=DATASET, spec=SPEC, repeat_with="again",
        samples_file=folder / "samples.parquet", on_pair=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    yield report, told


def test_each_model_is_held_against_the_reference_under_its_name(
    measured: tuple[LatencyReport, list[tuple[int, int]]], models: list[Named]
) -> None:
    report, told = measured
    pairs = [tuple(row.model for row in each.rows) for each in report.comparisons]
    assert pairs == [("the teacher", "small"), ("the teacher", "<b>mid</b>")]
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    hashes = {each.name: sha256_of(each.contestant.weights) for each in models}
    assert report.weights_sha256 == hashes
    assert report.fingerprint and report.repeat_with == "again"
    words = " ".join([*report.notes, *(noise.detail for each in report.comparisons for noise in each.noise)])
    assert "student" not in words and "the same the" not in words
    assert "the same model loaded a second time" in words


def test_a_pair_that_breaks_off_costs_the_others_nothing(
    measured: tuple[LatencyReport, list[tuple[int, int]]],
) -> None:
    (failure,) = measured[0].failures
    assert (failure.model, failure.runtime, failure.batch_size) == ("broken", "eager", 2)
    assert failure.detail == "RuntimeError: No memory for 'broken'"
    assert len(measured[0].comparisons) == 2


def test_every_call_of_every_pair_is_kept(measured: tuple[LatencyReport, list[tuple[int, int]]], folder: Path) -> None:
    rows = parquet.read_table(folder / "samples.parquet").to_pylist()
    assert {(row["compared"], row["model"]) for row in rows} == {
        ("small", "small"), ("small", "the teacher"), ("small", "control"),
        ("<b>mid</b>", "<b>mid</b>"), ("<b>mid</b>", "the teacher"), ("<b>mid</b>", "control"),
    }  # fmt: skip
    calls = benchmark_page.read_calls(folder / "samples.parquet")
    for each in measured[0].comparisons:
        place = (each.runtime, each.device, each.batch_size, each.input)
        assert len(calls[each.rows[1].model, place, each.rows[1].model]) >= each.rows[1].n


def test_the_page_holds_everything_and_runs_nothing(
    measured: tuple[LatencyReport, list[tuple[int, int]]], folder: Path
) -> None:
    page = benchmark_page.render(measured[0], name="<script>alert(1)</script>", samples=folder / "samples.parquet")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "<b>mid</b>" not in page and "&lt;b&gt;mid&lt;/b&gt;" in page
    assert "http://" not in page and "https://" not in page and "src=" not in page
    assert page.count('aria-label="Distribution of the calls"') == 1  # one cell, with a curve for each model
    assert page.count('<path class="line teacher"') + page.count('<path class="line student"') >= 2
    for told in ("broke off", "reference", measured[0].fingerprint, "again", "Peak memory"):
        assert told in page
    for each in measured[0].comparisons:
        assert f'mark {each.verdict}"' in page
        assert all(str(escape(noise.detail)) in page for noise in each.noise)


def test_one_model_alone_is_held_against_itself(models: list[Named]) -> None:
    report = compare_several(models[:1], reference="small", dataset=DATASET, spec=SPEC, repeat_with="-")
    (comparison,) = report.comparisons
    assert [row.model for row in comparison.rows] == ["small", "small"]
    assert report.notes[0] == ALONE
    assert list(report.weights_sha256) == ["small"]


def test_where_nothing_can_be_measured_the_first_reason_is_told(models: list[Named]) -> None:
    broken = [models[0], models[3]]
    with pytest.raises(
        InvalidRequest, match=r"Nothing could be measured\. RuntimeError: No memory for 'broken'"
    ) as refused:
        compare_several(broken, reference="small", dataset=DATASET, spec=SPEC, repeat_with="-")
    assert refused.value.pointer == "/measure"


def test_what_is_raised_between_blocks_ends_the_benchmark(models: list[Named]) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        compare_several(models[:2], reference="small", dataset=DATASET, spec=SPEC, repeat_with="-", on_block=stop)


def test_a_network_of_another_normalisation_sees_the_images_that_it_was_trained_on() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(3, 2, 4, 4)
    mean, std, own_mean, own_std = (0.5, 0.4), (0.25, 0.2), (0.1, 0.2), (0.5, 0.3)

    def normalised(by: tuple[float, float], over: tuple[float, float]) -> Tensor:
        return (pixels - torch.tensor(by).reshape(1, 2, 1, 1)) / torch.tensor(over).reshape(1, 2, 1, 1)

    wrapped = Renormalised(nn.Identity(), mean=mean, std=std, own_mean=own_mean, own_std=own_std)
    torch.testing.assert_close(wrapped(normalised(mean, std)), normalised(own_mean, own_std))


def test_sweeps_stand_on_the_page_in_the_lines_of_their_models(tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    samples.write_text(",".join(("compared", *COLUMNS)) + "\n")
    told = against('a "b" onload=', {'a "b" onload=': 2.0, "<small>": 1.0})
    rate = Estimated(value=100.0, low=90.0, high=110.0)
    sweeps = tuple(
        Sweep(
            model=name, runtime="eager", device="cpu", threads=1, rounds=5, best_batch_size=2, stopped_by="slower",
            stopped="Throughput fell.", points=tuple(
                SweepPoint(batch_size=size, p50_seconds=0.01, images_per_second=rate) for size in (1, 2)
            ),
        )
        for name in told.weights_sha256
    )  # fmt: skip
    page = benchmark_page.render(
        told.model_copy(update={"sweeps": sweeps, "comparisons": ()}), name="swept", samples=samples
    )
    assert page.count('aria-label="Throughput by batch size"') == 1
    assert 'class="line teacher"' in page and 'class="line student"' in page
    assert 'onload="' not in page and "<small>" not in page.replace("<small>(reference)</small>", "")
    assert "Throughput fell." in page


def test_quantiles_are_those_of_the_calls() -> None:
    assert benchmark_page.quantiles([3.0, 1.0, 2.0, 4.0]) == ((1.0, 0.25), (2.0, 0.5), (3.0, 0.75), (4.0, 1.0))
    many = benchmark_page.quantiles([float(each) for each in range(1, 1001)])
    assert len(many) == benchmark_page.QUANTILES and many[-1] == (1000.0, 1.0)
    assert benchmark_page.quantiles([]) == ()


def test_of_long_names_the_end_is_shown() -> None:
    assert benchmark_page.ending("job_01jd8q5w0000000000000k3v9/student") == "…00000k3v9/student"
    assert benchmark_page.ending("small") == "small"
