"""Networks of eight bits: what the file holds, that it answers as before, and what is told when there can be none."""

import builtins
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from distillery.errors import InvalidRequest, MissingDependency
from engine import runtimes
from engine.export import export_onnx
from engine.quantise import quantise
from engine.runtimes import Forms

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
TRAINED_ON = 1200


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    bunch = load_digits()
    return ((bunch.images - 4.9) / 6.0).astype(np.float32)[:, None], bunch.target


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small convolutional network that was taught the digits."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    images, labels = _digits()
    inputs, targets = torch.from_numpy(images[:TRAINED_ON]), torch.from_numpy(labels[:TRAINED_ON])
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    for _ in range(6):
        for chosen in torch.randperm(TRAINED_ON).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(inputs[chosen]), targets[chosen]).backward()
            optimiser.step()
    return made.eval()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float32") / "network.onnx"
    export_onnx(network, path, channels=1, image_size=8)
    return path


@pytest.fixture(scope="module")
def calibration() -> list[NDArray[np.float32]]:
    images, _ = _digits()
    return [images[start : start + 32] for start in range(0, 256, 32)]


@pytest.fixture(scope="module")
def quantised(exported: Path, calibration: list[NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "network.int8.onnx"
    quantise(exported, path, calibration=calibration)
    return path


@pytest.mark.parametrize("name", ["onnxruntime-int8", "openvino-int8"])
def test_eight_bits_keep_the_accuracy_on_images_that_were_not_seen(
    name: str, network: nn.Module, quantised: Path
) -> None:
    images, labels = _digits()
    unseen, truth = torch.from_numpy(images[TRAINED_ON:]), labels[TRAINED_ON:]
    answered = runtimes.find(name).load(Forms(network, int8=quantised), device=CPU, threads=1).logits(unseen)
    with torch.inference_mode():
        full = network(unseen).numpy()
    assert (full.argmax(axis=1) == truth).mean() > 0.9
    assert (full.argmax(axis=1) == answered.argmax(axis=1)).mean() > 0.98
    assert not np.array_equal(full, answered)


def test_weights_are_int8_with_a_scale_for_each_channel_and_activations_uint8(quantised: Path) -> None:
    graph = onnx.load(str(quantised)).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [name for name, array in stored.items() if array.dtype == np.int8 and array.ndim > 1]
    scales = {node.input[0]: stored[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert sorted(scales[name].shape for name in weights) == [(10,), (16,), (16,)]
    zero_points = {stored[node.input[2]].dtype.name for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zero_points == {"uint8"}


def test_the_file_is_smaller_takes_any_batch_and_keeps_its_names(exported: Path, quantised: Path) -> None:
    model = onnx.load(str(quantised))
    onnx.checker.check_model(model)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert ([each.name for each in model.graph.input], [each.name for each in model.graph.output]) == (
        ["images"],
        ["logits"],
    )
    assert shape[0].dim_param
    assert [side.dim_value for side in shape[1:]] == [1, 8, 8]
    assert quantised.stat().st_size < 0.6 * exported.stat().st_size


def test_the_file_is_the_same_in_another_process_and_names_no_folder(
    exported: Path, quantised: Path, tmp_path: Path, calibration: list[NDArray[np.float32]]
) -> None:
    np.save(tmp_path / "calibration.npy", np.stack(calibration))
    program = (
        "import sys, numpy; from pathlib import Path; from engine.quantise import quantise\n"
        "quantise(Path(sys.argv[1]), Path(sys.argv[2]), calibration=list(numpy.load(sys.argv[3])))"
    )
    again = tmp_path / "again.onnx"
    subprocess.run(
        [sys.executable, "-c", program, exported, again, tmp_path / "calibration.npy"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    content = quantised.read_bytes()
    assert again.read_bytes() == content
    assert not [
        place for place in (tempfile.gettempdir(), str(ROOT), str(exported.parent)) if place.encode() in content
    ]


def test_nothing_is_left_beside_the_export_or_in_the_temporary_folder(
    exported: Path, tmp_path: Path, calibration: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    quantise(exported, tmp_path / "out" / "int8.onnx", calibration=calibration)
    with pytest.raises(InvalidRequest):
        quantise(exported, tmp_path / "out" / "bad.onnx", calibration=[np.zeros((2, 3, 8, 8), np.float32)])
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert list(temporary.iterdir()) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["int8.onnx"]


def test_no_images_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there are none") as told:
        quantise(exported, tmp_path / "int8.onnx", calibration=[])
    assert "latency.runtimes" in told.value.hint


def test_a_graph_without_an_operation_of_eight_bits_is_refused(
    tmp_path: Path, calibration: list[NDArray[np.float32]]
) -> None:
    path = tmp_path / "sines.onnx"
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sin", ["images"], ["logits"])],
        "sines",
        [tensor("images", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [tensor("logits", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    opset = onnx.helper.make_opsetid("", 18)
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())
    with pytest.raises(InvalidRequest, match=r"sines\.onnx cannot be quantised: no operation"):
        quantise(path, tmp_path / "int8.onnx", calibration=calibration)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, calibration: list[NDArray[np.float32]]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no protobuf at all")
    with pytest.raises(InvalidRequest, match=r"broken\.onnx cannot be quantised"):
        quantise(path, tmp_path / "int8.onnx", calibration=calibration)


def test_without_onnxruntime_it_says_what_to_install(
    exported: Path, tmp_path: Path, calibration: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError("no such package", name=name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match="onnxruntime") as told:
        quantise(exported, tmp_path / "int8.onnx", calibration=calibration)
    assert "pip install" in told.value.hint
