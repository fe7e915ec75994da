"""Each runtime gives the network's answers, leaves the network alone, and keeps quiet while another one is timed."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch._dynamo.utils import counters

from distillery.errors import MissingDependency, UnknownName
from distillery.spec.latency import RUNTIMES
from engine import runtimes
from engine.export import export_onnx
from engine.quantise import quantise
from engine.runtimes import Forms
from engine.runtimes.eager import folded
from engine.runtimes.onnx_runtime import OnnxSession
from engine.runtimes.openvino import OpenVino, OpenVinoBfloat16, OpenVinoInt8

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
HERE = [runtime for runtime in runtimes.RUNTIMES if not runtime.absent_on(CPU)]
UNCOMPILED = [runtime for runtime in HERE if runtime.name != "compiled"]
"""Compiling takes many seconds, so one test does all of it."""
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 5e-2}
"""Largest difference from the eager logits, as a share of the largest: a rounding to 8 bits of mantissa is up to 2e-3,
and one of 256 levels 4e-3, and several of them meet on the way."""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def _answers(network: nn.Module, images: torch.Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(copy.deepcopy(network).eval()(images).numpy())


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    export_onnx(_network(), path, channels=3, image_size=8)
    return path


@pytest.fixture(scope="module")
def forms(onnx_file: Path) -> Forms:
    """The network in every form."""
    int8 = onnx_file.with_name("network.int8.onnx")
    quantise(onnx_file, int8, calibration=[IMAGES])  # the range of other images is not what is tested here
    return Forms(_network(), onnx=onnx_file, int8=int8)


def test_all_runtimes_of_the_spec_are_there_in_its_order_and_run_on_this_processor() -> None:
    assert [runtime.name for runtime in runtimes.RUNTIMES] == list(RUNTIMES)
    absent = {runtime.name: runtime.absent_on(CPU) for runtime in runtimes.RUNTIMES if runtime.absent_on(CPU)}
    assert absent.pop("cuda-graph") == "CUDA graphs need a CUDA device"
    assert set(absent) <= {"openvino-bf16"}
    assert all("bfloat16" in reason for reason in absent.values())


@pytest.mark.parametrize("runtime", UNCOMPILED, ids=lambda runtime: runtime.name)
def test_a_runtime_gives_the_answers_of_the_network_in_eval_mode(runtime: runtimes.Runtime, forms: Forms) -> None:
    images = torch.from_numpy(IMAGES)
    answered = runtime.load(forms, device=CPU, threads=1).logits(images)
    expected = _answers(forms.network, images)
    tolerance = TOLERANCES[runtime.precision] * np.abs(expected).max()
    assert answered.dtype == np.float32
    np.testing.assert_allclose(answered, expected, atol=tolerance)
    assert (answered.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_the_reference_gives_the_very_answers_of_the_network() -> None:
    network = _network()
    images = torch.from_numpy(IMAGES)
    assert np.array_equal(runtimes.reference(network, device=CPU).logits(images), _answers(network, images))


def test_eager_folds_batch_normalisation_and_leaves_alone_what_cannot_be_followed() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.norm(images).mean(dim=(2, 3)) if images.sum() > 0 else images.mean(dim=(2, 3))

    norms = [each for each in folded(_network().eval()).modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms == []
    images = torch.from_numpy(IMAGES)
    answered = runtimes.find("eager").load(Forms(Branches()), device=CPU, threads=1).logits(images)
    np.testing.assert_allclose(answered, _answers(Branches(), images), atol=1e-6)


@pytest.mark.parametrize("runtime", UNCOMPILED, ids=lambda runtime: runtime.name)
def test_calls_go_round_the_batches_and_tell_no_device_time_on_the_cpu(runtime: runtimes.Runtime, forms: Forms) -> None:
    session = runtime.load(forms, device=CPU, threads=1)
    session.feed([torch.randn(2, 3, 8, 8), torch.randn(1, 3, 8, 8)])
    assert [session.call(index) for index in range(5)] == [None] * 5


@pytest.mark.parametrize("runtime", UNCOMPILED, ids=lambda runtime: runtime.name)
def test_what_was_fed_does_not_change_the_answers_to_another_number_of_images(
    runtime: runtimes.Runtime, forms: Forms
) -> None:
    session = runtime.load(forms, device=CPU, threads=1)
    images = torch.randn(7, 3, 8, 8)
    expected = session.logits(images)
    session.feed([torch.randn(3, 3, 8, 8)])
    session.call(0)
    np.testing.assert_allclose(session.logits(images), expected, atol=1e-5)


def test_compiled_sessions_of_one_class_of_network_answer_alike_and_stay_compiled() -> None:
    loaded = []
    torch.compiler.reset()
    counters.clear()
    networks = [_network() for _ in range(10)]  # torch.compile keeps no more than eight versions of one function
    with torch.no_grad():
        networks[1][4].bias.add_(1.0)  # type: ignore[union-attr, operator]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    for network in networks:
        session = runtimes.find("compiled").load(Forms(network), device=CPU, threads=torch.get_num_threads())
        session.feed([torch.randn(2, 3, 8, 8)])
        assert session.call(0) is None
        loaded.append(session)
    assert counters["stats"]["unique_graphs"] == 10
    images = torch.randn(5, 3, 8, 8)
    for network, session, state in zip(networks, loaded, before, strict=True):
        np.testing.assert_allclose(session.logits(images), _answers(network, images), atol=1e-5)
        assert network.training
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert counters["stats"]["unique_graphs"] == 10, "answers of another number of images compiled it anew"
    assert not counters["graph_break"]


def test_openvino_computes_in_the_precision_it_is_named_for_on_the_threads_it_is_given(forms: Forms) -> None:
    for runtime, precision in ((OpenVino(), "f32"), (OpenVinoBfloat16(), "bf16"), (OpenVinoInt8(), "f32")):
        if runtime.absent_on(CPU):
            continue
        settings = runtime.load(forms, device=CPU, threads=2).settings(torch.zeros(1, 3, 8, 8))
        assert settings["INFERENCE_PRECISION_HINT"].get_type_name() == precision
        assert (settings["INFERENCE_NUM_THREADS"], settings["NUM_STREAMS"]) == (2, 1)
        assert settings["ENABLE_CPU_PINNING"] is False


def test_an_eager_session_shares_nothing_with_the_network() -> None:
    network = _network().to(memory_format=torch.channels_last)
    session = runtimes.find("eager").load(Forms(network), device=CPU, threads=1)
    images = torch.randn(2, 3, 8, 8)
    before = session.logits(images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(session.logits(images), before)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_onnx_sessions_do_not_spin_and_use_the_threads_they_are_given(onnx_file: Path) -> None:
    session = OnnxSession(onnx_file, device=CPU, threads=2)
    options = session.options
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_a_runtime_says_why_it_cannot_run_on_a_device(monkeypatch: pytest.MonkeyPatch, onnx_file: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    cuda = torch.device("cuda")
    assert "no CUDA device" in runtimes.find("eager").absent_on(cuda)
    assert "onnxruntime-gpu" in runtimes.find("onnxruntime").absent_on(cuda)
    assert "no CUDA device" in runtimes.find("compiled").absent_on(cuda)
    assert "no CUDA device" in runtimes.find("cuda-graph").absent_on(cuda)
    for name in ("onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8"):
        assert "on the CPU" in runtimes.find(name).absent_on(cuda)
    with pytest.raises(MissingDependency, match="no CUDA provider"):
        runtimes.find("onnxruntime").load(Forms(_network(), onnx=onnx_file), device=cuda, threads=1)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in runtimes.find("compiled").absent_on(CPU)
    with pytest.raises(MissingDependency, match="no-such-compiler"):
        runtimes.find("compiled").load(Forms(_network()), device=CPU, threads=1)


def test_a_processor_without_bfloat16_does_not_pretend_to_compute_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forms: Forms
) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr("engine.runtimes.openvino._CPU_FACTS", facts)
    facts.write_text("flags : fpu avx2 avx512f avx512_vnni\n")
    assert "no instructions for bfloat16" in OpenVinoBfloat16().absent_on(CPU)
    with pytest.raises(MissingDependency, match="bfloat16"):
        OpenVinoBfloat16().load(forms, device=CPU, threads=1)
    for flag in ("avx512_bf16", "amx_bf16"):
        facts.write_text(f"flags : fpu {flag} avx2\n")
        assert OpenVinoBfloat16().absent_on(CPU) == ""


def test_without_openvino_its_runtimes_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in ("openvino", "openvino-bf16", "openvino-int8"):
        assert runtimes.find(name).absent_on(CPU) == "the package openvino is not installed"


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as told:
        runtimes.find("onnxrutime")
    assert "onnxruntime" in told.value.hint
