"""Sweeps and servers of real networks on the CPU. What they find is not asserted; that it hangs together is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distillery.report import ServerResult, Sweep
from distillery.spec import LatencySpec
from engine import intervals
from engine.data.dataset import Dataset
from engine.export import export_onnx
from engine.latency import scenarios
from engine.latency.encoded import SampleImages
from engine.latency.scenarios import Load, measure, timed_alone
from engine.latency.server import Highest
from engine.latency.sweep import FEWEST_ROUNDS, SIZES
from engine.runtimes import Eager, Forms, Runtime, Session, find

CPU = torch.device("cpu")


def _load(networks: dict[str, nn.Module], runtime: Runtime, folder: Path | None = None) -> Load:
    def load(model: str) -> Session:
        onnx = None if folder is None else folder / f"{model}.onnx"
        return runtime.load(Forms(networks[model].eval(), onnx=onnx), device=CPU, threads=1)

    return load


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def networks(small_network) -> dict[str, nn.Module]:
    return {"teacher": small_network(width=24), "student": small_network(width=4)}


def _measured(
    load: Load, dataset: Dataset, runtime: Runtime, *, on_block: Callable[[], None] = lambda: None, **asked: object
) -> tuple[tuple[Sweep, ...], tuple[ServerResult, ...]]:
    spec = LatencySpec.model_validate({"seconds": 4, **asked})
    images = SampleImages.of(dataset, encoded="end_to_end" in spec.inputs)
    return measure(
        load, runtime=runtime, device=CPU, images=images, spec=spec, rng=np.random.default_rng(spec.seed),
        on_block=on_block,
    )  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_both_scenarios_with_both_inputs(small_dataset: Dataset, networks: dict[str, nn.Module]) -> None:
    looks: list[bool] = []
    swept, served = _measured(
        _load(networks, Eager()), small_dataset, Eager(), scenarios=("batch_sweep", "server"),
        inputs=("model", "end_to_end"), on_block=lambda: looks.append(True),
    )  # fmt: skip
    asked = [(model, given) for given in ("model", "end_to_end") for model in ("teacher", "student")]
    assert [(each.model, each.input) for each in swept] == asked
    assert [(each.model, each.input) for each in served] == asked
    for each in swept:
        sizes = [point.batch_size for point in each.points]
        assert sizes == list(SIZES[: len(sizes)])
        assert each.best_batch_size in sizes
        assert each.rounds >= FEWEST_ROUNDS
        assert each.stopped
        for point in each.points:
            told = point.images_per_second
            assert 0 < told.low <= told.value <= told.high
            assert point.p50_seconds > 0
    for pair in (served[:2], served[2:]):
        assert pair[0].objective_seconds == pair[1].objective_seconds > 0
    for result in served:
        assert (result.stages is not None) == (result.input == "end_to_end")
        assert all(rate.n >= intervals.calls_needed(0.99) for rate in result.rates if not rate.cut_short)
        assert all(rate.p99.seconds >= rate.p50.seconds for rate in result.rates if not rate.cut_short)
    blocks = sum(each.rounds * len(each.points) for each in swept)
    assert len(looks) >= blocks + sum(len(each.rates) for each in served)


@pytest.mark.usefixtures("one_thread")
def test_in_onnx_runtime_with_an_objective_of_the_spec(
    small_dataset: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    for name, network in networks.items():
        export_onnx(network.eval(), tmp_path / f"{name}.onnx", channels=1, image_size=8)
    runtime = find("onnxruntime")
    swept, served = _measured(
        _load(networks, runtime, tmp_path), small_dataset, runtime, scenarios=("server", "batch_sweep"), p99_seconds=5
    )
    assert [each.objective_seconds for each in served] == [5, 5]
    assert {each.runtime for each in (*swept, *served)} == {"onnxruntime"}
    assert all(each.highest_rate is None or each.highest_rate > 1 for each in served)


class Bounded(nn.Module):
    """A network whose memory runs out above four images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self.network(images)


def test_where_memory_runs_out_the_sweep_ends(small_dataset: Dataset, networks: dict[str, nn.Module]) -> None:
    load = _load({model: Bounded(network) for model, network in networks.items()}, Eager())
    swept, served = _measured(load, small_dataset, Eager(), scenarios=("batch_sweep",), seconds=120)
    assert served == ()
    for each in swept:
        assert [point.batch_size for point in each.points] == [1, 2, 4]
        assert (each.stopped_by, each.stopped) == ("memory", "A batch of 8 does not fit into memory.")


class Specialised(Eager):
    """Eager in the place of a runtime whose sessions are made for one shape."""

    name = scenarios.FOR_ONE_SIZE[0]


def test_a_runtime_made_for_one_shape_is_loaded_once_for_each_batch_size(
    small_dataset: Dataset, networks: dict[str, nn.Module]
) -> None:
    loaded: list[str] = []
    load = _load(networks, Specialised())

    def counted(model: str) -> Session:
        loaded.append(model)
        return load(model)

    swept, _ = _measured(counted, small_dataset, Specialised(), scenarios=("batch_sweep",))
    assert [loaded.count(each.model) for each in swept] == [len(each.points) for each in swept]
    loaded.clear()
    _measured(counted, small_dataset, Eager(), scenarios=("batch_sweep",))
    assert loaded == ["teacher", "student"]


def test_arrivals_come_from_the_seed_however_often_a_sweep_has_drawn(
    small_dataset: Dataset, networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many rounds a sweep holds depends on the machine; the load must not, nor may it differ between the models."""
    sent: list[np.ndarray] = []

    def recorded(*arguments: object, gaps: np.ndarray, **more: object) -> Highest:
        sent.append(gaps)
        return Highest(highest=None, lowest_missed=None, rates=(), notes=())

    monkeypatch.setattr(scenarios, "highest_rate", recorded)
    for asked in (("server",), ("batch_sweep", "server")):
        _measured(_load(networks, Eager()), small_dataset, Eager(), scenarios=asked, seed=5)
    _measured(_load(networks, Eager()), small_dataset, Eager(), scenarios=("server",), seed=6)
    assert all(np.array_equal(each, sent[0]) for each in sent[:4])
    assert not np.array_equal(sent[4], sent[0])


def test_a_single_stream_alone_measures_neither(small_dataset: Dataset, networks: dict[str, nn.Module]) -> None:
    assert _measured(_load(networks, Eager()), small_dataset, Eager()) == ((), ())


@pytest.mark.parametrize("scenario", ["batch_sweep", "server"])
def test_what_is_raised_between_blocks_abandons_it(
    small_dataset: Dataset, networks: dict[str, nn.Module], scenario: str
) -> None:
    class Stopped(Exception):
        pass

    looks = iter(range(100))

    def on_block() -> None:
        if next(looks) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        _measured(_load(networks, Eager()), small_dataset, Eager(), scenarios=(scenario,), on_block=on_block)


def test_calls_alone_are_timed_for_so_long_but_at_least_ten_times() -> None:
    now = [0.0]

    def call(index: int) -> None:
        now[0] += 2.0

    assert timed_alone(call, seconds=1.0, clock=lambda: now[0]) == [2.0] * 10
    assert len(timed_alone(call, seconds=60.0, clock=lambda: now[0])) == 30
    assert len(timed_alone(lambda index: None, seconds=60.0, clock=lambda: now[0])) == 2000
