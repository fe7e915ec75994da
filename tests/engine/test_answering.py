"""Delivered networks that answer pixels: in every form the same, and as the engine itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.errors import UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.answering import Expected, load
from engine.data.views import Normalisation
from engine.export import export_onnx
from engine.weights import describe, save_safetensors
from models import build

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
CLASSES = tuple("abcde")
SHAPE: dict[str, Any] = {"image_size": 16, "channels": 3}
EXPECTED = Expected(architecture="resnet8", classes=5, mean=MEAN, std=STD, **SHAPE)
PIXELS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("resnet8", classes=5, **SHAPE).eval()


@pytest.fixture(scope="module")
def logits(network: torch.nn.Module) -> Any:
    normalise = Normalisation(mean=MEAN, std=STD, device=torch.device("cpu"))
    with torch.inference_mode():
        return network(normalise(PIXELS)).numpy()


def weights(network: torch.nn.Module, folder: Path, **told: Any) -> Path:
    facts = {"architecture": "resnet8", "classes": CLASSES, "mean": MEAN, "std": STD} | SHAPE | told
    save_safetensors(network, folder / "it.safetensors", metadata=describe(**facts))
    return folder / "it.safetensors"


def test_weights_answer_as_their_network_with_the_normalisation_of_their_file(
    network: torch.nn.Module, logits: Any, tmp_path: Path
) -> None:
    other = Expected(architecture="vgg8", classes=5, mean=(0.0,) * 3, std=(1.0,) * 3, **SHAPE)
    answering = load(weights(network, tmp_path), form="safetensors", expected=other, threads=1)
    assert np.allclose(answering.logits(PIXELS), logits, atol=1e-5)


def test_an_export_answers_as_its_network(network: torch.nn.Module, logits: Any, tmp_path: Path) -> None:
    export_onnx(network, tmp_path / "it.onnx", **SHAPE)
    answering = load(tmp_path / "it.onnx", form="export", expected=EXPECTED, threads=1)
    assert np.allclose(answering.logits(PIXELS), logits, atol=1e-3 * np.abs(logits).max())


@pytest.mark.parametrize("size", [16, 24])
def test_a_foreign_graph_normalises_and_resizes_by_itself(
    network: torch.nn.Module, logits: Any, tmp_path: Path, size: int
) -> None:
    export_onnx(network, tmp_path / "it.onnx", **SHAPE)
    reads = Preprocessing(mean=MEAN, std=STD, **SHAPE)
    given: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": 3, "image_size": size}
    expected = Expected(architecture="onnx", classes=5, preprocessing=reads, outputs="logits", **given)
    answering = load(tmp_path / "it.onnx", form="graph", expected=expected, threads=1)
    pixels = PIXELS if size == 16 else torch.nn.functional.interpolate(PIXELS, size=(size, size), mode="nearest")
    answered = answering.logits(pixels)
    assert answered.shape == logits.shape
    assert np.allclose(answered, logits, atol=1e-3) == (size == 16)


def test_floats_on_the_same_scale_are_answered_alike_and_left_as_they_are(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    answering = load(weights(network, tmp_path), form="safetensors", expected=EXPECTED, threads=1)
    floats = PIXELS.float()
    before = floats.clone()
    assert np.array_equal(answering.logits(floats), answering.logits(PIXELS))
    assert torch.equal(floats, before)


def test_answers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spoilt = build("resnet8", classes=5, **SHAPE).eval()
    with torch.no_grad():
        for parameter in spoilt.parameters():
            parameter.fill_(3e38)
    answering = load(weights(spoilt, tmp_path), form="safetensors", expected=EXPECTED, threads=1)
    with pytest.raises(UnusableWeights, match="not finite"):
        answering.logits(PIXELS)


def test_a_file_that_is_another_network_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnusableWeights, match="does not fit"):
        load(weights(network, tmp_path, architecture="resnet14"), form="safetensors", expected=EXPECTED, threads=1)
    (tmp_path / "bad.safetensors").write_bytes(b"the weights of a student")
    with pytest.raises(UnusableWeights, match="damaged"):
        load(tmp_path / "bad.safetensors", form="safetensors", expected=EXPECTED, threads=1)
    (tmp_path / "bad.onnx").write_bytes(b"no graph at all")
    with pytest.raises(UnusableWeights, match="ONNX Runtime refuses the export"):
        load(tmp_path / "bad.onnx", form="export", expected=EXPECTED, threads=1)
