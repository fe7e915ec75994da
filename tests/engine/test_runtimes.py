"""Each runtime gives the network's answers, leaves the network alone, and keeps quiet while another one is timed."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distillery.errors import MissingDependency, UnknownName
from engine import runtimes
from engine.export import export_onnx
from engine.runtimes import Forms
from engine.runtimes.onnx_runtime import OnnxSession

CPU = torch.device("cpu")


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    export_onnx(_network(), path, channels=3, image_size=8)
    return path


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_runtime_gives_the_answers_of_the_network_in_eval_mode(runtime: runtimes.Runtime, onnx_file: Path) -> None:
    network, images = _network(), torch.randn(6, 3, 8, 8)
    session = runtime.load(Forms(network, onnx=onnx_file), device=CPU, threads=1)
    with torch.inference_mode():
        expected = copy.deepcopy(network).eval()(images).numpy()
    np.testing.assert_allclose(session.logits(images), expected, atol=1e-5)
    assert session.logits(images).dtype == np.float32


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES, ids=lambda runtime: runtime.name)
def test_calls_go_round_the_batches_and_tell_no_device_time_on_the_cpu(
    runtime: runtimes.Runtime, onnx_file: Path
) -> None:
    session = runtime.load(Forms(_network(), onnx=onnx_file), device=CPU, threads=1)
    session.feed([torch.randn(2, 3, 8, 8), torch.randn(1, 3, 8, 8)])
    assert [session.call(index) for index in range(5)] == [None] * 5


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
    assert not any(runtime.absent_on(CPU) for runtime in runtimes.RUNTIMES)
    with pytest.raises(MissingDependency, match="no CUDA provider"):
        runtimes.find("onnxruntime").load(Forms(_network(), onnx=onnx_file), device=cuda, threads=1)


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as told:
        runtimes.find("onnxrutime")
    assert "onnxruntime" in told.value.hint
