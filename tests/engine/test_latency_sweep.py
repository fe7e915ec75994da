"""The sweep under a simulated clock: networks whose throughput at each batch size is known, and machines that drift."""

import gc
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.latency.memory import Memory, memory_of, ran_out
from engine.latency.sweep import FEWEST_ROUNDS, MOST_ROUNDS, SIZES, Call, Swept, sweep

UNBOUNDED = Memory(growth=lambda work: work(), left=lambda: None, release=lambda: None)


class SimulatedNetwork:
    """A call of `size` images takes `seconds(size)`, changed by noise and by what the machine does at that time."""

    def __init__(
        self,
        seconds: Callable[[int], float],
        *,
        noise: float = 0.005,
        machine: Callable[[float], float] = lambda now: 1.0,
        fits: Callable[[int, int], bool] = lambda size, call: True,
    ) -> None:
        self.now = 0.0
        self.order: list[int] = []
        self.collecting: list[bool] = []
        self._rng = np.random.default_rng(7)
        self._seconds, self._noise, self._machine, self._fits = seconds, noise, machine, fits
        self._calls = 0

    def clock(self) -> float:
        return self.now

    def ready(self, size: int) -> Call:
        self.order.append(size)

        def call(index: int) -> None:
            self._calls += 1
            if not self._fits(size, self._calls):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.collecting.append(gc.isenabled())
            self.now += self._seconds(size) * float(self._rng.lognormal(0, self._noise)) * self._machine(self.now)

        return call

    def sweep(self, *, seconds: float = 1e4, memory: Memory = UNBOUNDED, seed: int = 0, **more: object) -> Swept:
        rng = np.random.default_rng(seed)
        return sweep(self.ready, rng=rng, clock=self.clock, seconds=seconds, memory=memory, **more)  # type: ignore[arg-type]


def _sizes(swept: Swept) -> list[int]:
    return [point.batch_size for point in swept.points]


def test_throughput_is_found_at_every_size_and_the_best_is_the_smallest_of_the_highest() -> None:
    """10 ms for the launch and 1 ms for each image, but no gain from 64 images on."""
    swept = SimulatedNetwork(lambda size: 0.010 + 0.001 * size if size < 64 else size * 74 / 64 / 1000).sweep()
    assert _sizes(swept) == list(SIZES)
    for point in swept.points:
        size = point.batch_size
        truth = size / (0.010 + 0.001 * size) if size < 64 else 64 / 0.074
        assert point.images_per_second.value == pytest.approx(truth, rel=0.01)
        assert point.images_per_second.low < point.images_per_second.value < point.images_per_second.high
        assert point.p50_seconds == pytest.approx(size / truth, rel=0.01)
    assert swept.best_batch_size == 64
    assert (swept.stopped_by, swept.rounds) == ("largest", MOST_ROUNDS)
    assert swept.notes == ()


def test_two_per_cent_are_no_gain_worth_a_larger_batch_and_more_are() -> None:
    small = SimulatedNetwork(lambda size: size * (0.001 if size < 16 else 0.00099), noise=0.001).sweep()
    assert small.best_batch_size == 1
    large = SimulatedNetwork(lambda size: size * (0.001 if size < 16 else 0.00095), noise=0.001).sweep()
    assert large.best_batch_size == 16


@pytest.mark.parametrize("pace", [1.0, -1.0])
def test_a_machine_that_drifts_does_not_favour_one_end(pace: float) -> None:
    """It becomes four times slower, or faster, over the sweep; every size has the same throughput."""
    swept = SimulatedNetwork(
        lambda size: 0.001 * size, machine=lambda now: 2 ** (2 * pace * math.tanh(now / 40))
    ).sweep()
    rates = [point.images_per_second.value for point in swept.points]
    assert max(rates) / min(rates) < 1.1
    assert swept.best_batch_size == 1


def test_every_round_has_each_size_once_in_changing_order() -> None:
    network = SimulatedNetwork(lambda size: 0.02 * size, fits=lambda size, call: size <= 4)
    swept = network.sweep()
    assert _sizes(swept) == [1, 2, 4]
    held = network.order[-3 * MOST_ROUNDS :]
    rounds = [tuple(held[start : start + 3]) for start in range(0, len(held), 3)]
    assert all(sorted(each) == [1, 2, 4] for each in rounds)
    assert len(set(rounds)) == 6
    again = SimulatedNetwork(lambda size: 0.02 * size, fits=lambda size, call: size <= 4)
    assert again.sweep() == swept
    assert again.order == network.order
    assert gc.isenabled()
    assert not all(network.collecting)


def test_it_stops_where_memory_runs_out_and_gives_back_what_was_taken() -> None:
    released = []
    memory = Memory(growth=lambda work: work(), left=lambda: None, release=lambda: released.append(True))
    swept = SimulatedNetwork(lambda size: 0.01, fits=lambda size, call: size < 32).sweep(memory=memory)
    assert _sizes(swept) == [1, 2, 4, 8, 16]
    assert (swept.stopped_by, swept.stopped) == ("memory", "A batch of 32 does not fit into memory.")
    assert released == [True]


def test_where_not_even_one_image_fits_there_are_no_points() -> None:
    swept = SimulatedNetwork(lambda size: 0.01, fits=lambda size, call: False).sweep()
    assert (swept.points, swept.best_batch_size, swept.rounds, swept.stopped_by) == ((), None, 0, "memory")


def test_a_size_that_does_not_fit_later_is_left_out() -> None:
    swept = SimulatedNetwork(lambda size: 0.02 * size, fits=lambda size, call: size < 4 or call < 60).sweep(seconds=20)
    assert _sizes(swept) == [1, 2]
    assert (swept.stopped_by, swept.stopped) == ("memory", "A batch of 4 does not fit into memory.")


def test_a_batch_that_would_not_fit_is_not_tried_where_the_kernel_would_kill() -> None:
    growing = iter([10**9, 2 * 10**9, 4 * 10**9, 8 * 10**9])

    def growth(work: Callable[[], None]) -> int:
        work()
        return next(growing)

    memory = Memory(growth=growth, left=lambda: 7 * 10**9, release=lambda: None)
    network = SimulatedNetwork(lambda size: 0.01)
    swept = network.sweep(memory=memory)
    assert _sizes(swept) == [1, 2, 4]
    assert swept.stopped_by == "memory"
    assert swept.stopped == "A batch of 8 was not tried: it needs about 8 GB of memory, and 7 GB are left."
    assert 8 not in network.order


def test_it_stops_when_throughput_has_fallen_twice_in_a_row() -> None:
    swept = SimulatedNetwork(lambda size: 0.001 * size * (1 if size <= 8 else 1.2)).sweep()
    assert _sizes(swept) == [1, 2, 4, 8, 16, 32]
    assert swept.stopped_by == "slower"
    dented = SimulatedNetwork(lambda size: 0.001 * size * (1.2 if size == 16 else 1)).sweep()
    assert _sizes(dented) == list(SIZES)


def test_it_stops_while_there_is_time_for_the_rounds() -> None:
    network = SimulatedNetwork(lambda size: 0.01 * size)
    swept = network.sweep(seconds=30)
    assert swept.stopped_by == "time"
    assert swept.stopped == "Time was up before a batch of 64."
    assert FEWEST_ROUNDS <= swept.rounds < MOST_ROUNDS
    assert network.now <= 30 * 1.05


def test_the_time_of_compiling_for_a_batch_size_is_reckoned_with() -> None:
    network = SimulatedNetwork(lambda size: 0.01)
    compiled: set[int] = set()

    def ready(size: int) -> Call:
        if size not in compiled:
            compiled.add(size)
            network.now += 40.0
        return network.ready(size)

    rng = np.random.default_rng(0)
    swept = sweep(ready, rng=rng, clock=network.clock, seconds=100, memory=UNBOUNDED)
    assert _sizes(swept) == [1, 2]
    assert swept.stopped_by == "time"
    assert network.now <= 100


def test_a_network_too_slow_for_its_time_is_measured_all_the_same_and_that_is_told() -> None:
    swept = SimulatedNetwork(lambda size: 5.0 * size).sweep(seconds=10)
    assert _sizes(swept) == [1]
    assert swept.rounds == FEWEST_ROUNDS
    assert "longer than the 10 s" in swept.notes[0]


def test_other_errors_and_what_is_raised_between_blocks_abandon_it() -> None:
    def ready(size: int) -> Call:
        raise RuntimeError("the kernel has no image for this device")

    with pytest.raises(RuntimeError, match="no image"):
        sweep(ready, rng=np.random.default_rng(0), clock=lambda: 0.0, seconds=1, memory=UNBOUNDED)

    class Stopped(Exception):
        pass

    looks = iter(range(1000))

    def on_block() -> None:
        if next(looks) == 25:
            raise Stopped

    with pytest.raises(Stopped):
        SimulatedNetwork(lambda size: 0.01).sweep(on_block=on_block)


def test_a_lack_of_memory_is_known_in_every_runtimes_own_words() -> None:
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**50)
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**50)
    assert ran_out(torch_error.value)
    assert ran_out(numpy_error.value)
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("out of memory"))
    assert ran_out(_onnxruntime_error())


def _onnxruntime_error() -> Exception:
    """What ONNX Runtime itself raises for a tensor of 128 TiB."""
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["n"], ["y"])],
        "large",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="allocate") as raised:  # its type has no name outside of the C module
        session.run(None, {"n": np.array([2**45])})
    return raised.value


def test_openvino_says_it_in_the_words_of_cpp() -> None:
    import openvino

    opset = openvino.opset13
    images = opset.parameter([2**50, 4], openvino.Type.f32)
    weights = opset.constant(np.ones((4, 4096), np.float32))
    model = openvino.Model([opset.matmul(images, weights, False, False)], [images])
    with pytest.raises(RuntimeError) as raised:
        openvino.Core().compile_model(model, "CPU").create_infer_request()
    assert ran_out(raised.value)


def test_on_the_cpu_memory_is_watched() -> None:
    memory = memory_of(torch.device("cpu"))
    held: list[torch.Tensor] = []
    grown = memory.growth(lambda: held.append(torch.ones(2**24)))
    left = memory.left()
    assert grown is None or grown > 2**25
    assert left is None or left > 0
