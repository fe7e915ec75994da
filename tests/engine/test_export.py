"""ONNX export: the same answers at any batch size, one whole file, and a refusal when the answers differ."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ExportMismatch, InvalidRequest
from engine import runtimes
from engine.export import MOST_BYTES, check_onnx, difference, export_onnx
from engine.runtimes import Forms
from models import build

CPU = torch.device("cpu")


def _small() -> nn.Module:
    """Convolution, batch norm with lived-in statistics, dropout: what an export can get wrong."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, 4),
    )
    network.train()
    for _ in range(3):
        network(torch.randn(16, 1, 8, 8) * 2 + 1)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    network, path = _small(), tmp_path_factory.mktemp("onnx") / "student.onnx"
    export_onnx(network, path, channels=1, image_size=8)
    return path, network


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_the_export_answers_any_batch_as_the_network_does(exported: tuple[Path, nn.Module], batch: int) -> None:
    path, network = exported
    images = torch.randn(batch, 1, 8, 8)
    assert check_onnx(path, network, samples=images) < 1e-5
    answered = runtimes.find("onnxruntime").load(Forms(network, onnx=path), device=CPU, threads=1).logits(images)
    eager = runtimes.find("eager").load(Forms(network), device=CPU, threads=1).logits(images)
    assert answered.shape == (batch, 4)
    np.testing.assert_allclose(answered, eager, atol=1e-5)


def test_the_file_is_alone_valid_and_names_its_input_and_output(exported: tuple[Path, nn.Module]) -> None:
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [file.name for file in path.parent.iterdir()] == ["student.onnx"]
    ((images,), (logits,)) = (model.graph.input, model.graph.output)
    assert (images.name, logits.name) == ("images", "logits")
    assert [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    assert [each.dim_param or each.dim_value for each in logits.type.tensor_type.shape.dim] == ["batch", 4]


def test_the_file_tells_nothing_about_the_machine_and_is_the_same_each_time(
    exported: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    path, network = exported
    content = path.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert b".py" not in content
    export_onnx(network, tmp_path / "again.onnx", channels=1, image_size=8)
    assert (tmp_path / "again.onnx").read_bytes() == content


def test_exporting_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    network = _small().to(memory_format=torch.channels_last)
    before = copy.deepcopy(network.state_dict())
    export_onnx(network, tmp_path / "student.onnx", channels=1, image_size=8)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_an_export_that_was_tampered_with_is_refused(exported: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = exported
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.05), weight.name))
    tampered = tmp_path / "tampered.onnx"
    onnx.save(model, tampered)
    with pytest.raises(ExportMismatch, match=r"tampered\.onnx differs from the eager network by up to"):
        check_onnx(tampered, network, samples=torch.randn(8, 1, 8, 8))


def test_a_file_cut_short_is_refused(exported: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = exported
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ExportMismatch, match=r"cut\.onnx cannot be loaded"):
        check_onnx(cut, network, samples=torch.randn(2, 1, 8, 8))


def test_an_export_for_another_input_is_refused(exported: tuple[Path, nn.Module]) -> None:
    path, _ = exported
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ExportMismatch, match="cannot answer a batch of 2"):
        check_onnx(path, other, samples=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.0])
def test_answers_that_are_not_finite_or_far_off_are_refused(wrong: float) -> None:
    eager = np.array([[10.0, -3.0]], dtype=np.float32)
    answered = eager.copy()
    answered[0, 1] += np.float32(wrong)
    with pytest.raises(ExportMismatch):
        difference(answered, eager=eager, what="student.onnx")
    with pytest.raises(ExportMismatch, match="shape"):
        difference(answered[:, :1], eager=eager, what="student.onnx")
    assert difference(eager, eager=eager, what="student.onnx") == 0


class Undeliverable(nn.Module):
    """Its path depends on the pixels, which a static graph cannot say."""

    def forward(self, images: Tensor) -> Tensor:
        if float(images.sum()) > 0:
            return images.mean(dim=(2, 3))
        return images.amax(dim=(2, 3))


def test_a_network_that_onnx_cannot_express_is_an_error_that_says_what_to_leave_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="Undeliverable cannot be written as ONNX") as told:
        export_onnx(Undeliverable(), tmp_path / "no.onnx", channels=3, image_size=8)
    assert "latency.runtimes" in told.value.hint
    assert not list(tmp_path.iterdir())


def test_a_network_too_large_for_one_file_is_refused_before_any_work(tmp_path: Path) -> None:
    with torch.device("meta"):
        large = nn.Linear(MOST_BYTES // 4 // 1000, 1001)
    with pytest.raises(InvalidRequest, match="GB"):
        export_onnx(large, tmp_path / "large.onnx", channels=3, image_size=8)


@pytest.mark.parametrize("name", ["seed_student", "resnet20"])
def test_networks_of_the_catalogue_export(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(name, classes=10, image_size=32, channels=3).eval()
    export_onnx(network, tmp_path / "network.onnx", channels=3, image_size=32)
    assert check_onnx(tmp_path / "network.onnx", network, samples=torch.randn(4, 3, 32, 32)) < 1e-4
