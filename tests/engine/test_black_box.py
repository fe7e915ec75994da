"""ONNX graphs from elsewhere teach: scikit-learn's, PyTorch's, with fixed batches, further outputs, other layouts."""

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec import LatencySpec
from distillery.spec.dataset import DigitsData
from distillery.spec.preprocessing import Preprocessing
from distillery.spec.teacher import TeacherSpec
from engine import evaluate
from engine.black_box import FLOOR, OnnxNetwork, as_expected, told_outputs, told_preprocessing
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.views import Batch
from engine.fitting import Fitting, survey
from engine.latency import Contestant, compare
from engine.latency.__main__ import _contestant
from engine.taps import tapped
from engine.teachers import Ensemble, FrozenTeacher, state_sha256
from models import build

DIGITS = Preprocessing(image_size=8, channels=1, scale=16, layout="flat")
RGB = Preprocessing(image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DigitsData())


@pytest.fixture(scope="module")
def classifier() -> Any:
    pixels, labels = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=200).fit(pixels, labels)


class Showing(nn.Module):
    """A network that gives a map and a vector beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build("resnet8", classes=5, image_size=16, channels=3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        network: Any = self.network
        maps = network.layer1(torch.relu(network.bn1(network.conv1(images))))
        deeper = network.layer3(network.layer2(maps))
        vector = deeper.mean((2, 3))
        return maps, network.linear(vector), vector


@pytest.fixture(scope="module")
def showing() -> Showing:
    torch.manual_seed(0)
    return Showing().eval()


@pytest.fixture(scope="module")
def content(showing: Showing) -> bytes:
    """The network as ONNX, with its three outputs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            showing, (torch.zeros(2, 3, 16, 16),), buffer, dynamo=True, verbose=False, input_names=["x"],
            output_names=["maps", "logits", "vector"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    return buffer.getvalue()


def of_sklearn(model: Any, *, zipmap: bool) -> bytes:
    from skl2onnx import to_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = to_onnx(model, np.zeros((1, 64), dtype=np.float32), options={"zipmap": zipmap})
    return bytes(made.SerializeToString())


def fitted(network: OnnxNetwork, data: Dataset) -> OnnxNetwork:
    return network.fitted(mean=data.mean, std=data.std, image_size=data.image_size, channels=data.channels)


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_scikit_learn_classifier_answers_as_scikit_learn_does(zipmap: bool, classifier: Any, digits: Dataset) -> None:
    network = OnnxNetwork(of_sklearn(classifier, zipmap=zipmap), preprocessing=DIGITS, classes=10)
    assert (network.outputs, network.layers, network.parameter_count()) == ("probabilities", (), 650)
    logits = evaluate.predict(fitted(network, digits), digits.test, mean=digits.mean, std=digits.std, device="cpu")
    pixels = digits.test.images.flatten(1).numpy() / 255 * 16
    expected = classifier.predict_proba(pixels).clip(FLOOR)
    assert np.abs(logits.exp().numpy() - expected).max() < 1e-4
    assert evaluate.accuracy(logits, digits.test.labels) > 0.95


def test_trees_answer_with_their_probabilities(digits: Dataset) -> None:
    pixels, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(8, random_state=0, max_depth=9).fit(pixels, labels)
    network = fitted(OnnxNetwork(of_sklearn(forest, zipmap=False), preprocessing=DIGITS, classes=10), digits)
    logits = evaluate.predict(network, digits.test, mean=digits.mean, std=digits.std, device="cpu")
    assert bool(logits.isfinite().all()), "a probability of 0 has a floor"
    assert evaluate.accuracy(logits, digits.test.labels) > 0.95


def test_further_outputs_are_layers_that_agree_with_hooks_on_the_network(showing: Showing, content: bytes) -> None:
    box = OnnxNetwork(content, preprocessing=Preprocessing(image_size=16), classes=5)
    assert (box.layers, box.map_layers, box.graph.batch) == (("maps", "vector"), ("maps",), None)
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = tapped(box, images, ["maps", "vector"])
        theirs = tapped(showing.network, images, ["layer1", "embedding"])
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)
    assert torch.allclose(ours.features["maps"], theirs.features["layer1"], atol=1e-4)
    assert torch.allclose(ours.features["vector"], theirs.features["embedding"], atol=1e-4)


def test_pairs_by_rule_need_what_a_black_box_shows(showing: Showing, content: bytes) -> None:
    images = torch.rand(4, 3, 16, 16)
    student = survey(build("resnet8", classes=5, image_size=16, channels=3), images, stages=("layer1", "layer2"))
    box = OnnxNetwork(content, preprocessing=Preprocessing(image_size=16), classes=5)
    seen = survey(box, images, stages=box.map_layers, layers=["vector"], embedding=False)
    fitting = Fitting(student, seen)
    assert [pair.teacher for pair in fitting.pairs("auto")] == ["maps", "maps"]
    with pytest.raises(InvalidRequest, match="black box") as refused:
        fitting.pairs("embedding")
    assert "maps, vector" in refused.value.hint
    with pytest.raises(InvalidRequest, match="black box"):
        Fitting(student, survey(box, images, stages=(), embedding=False)).pairs("last")


def test_a_fixed_batch_is_filled_up_and_cut(showing: Showing, content: bytes) -> None:
    model = onnx.ModelProto.FromString(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    box = OnnxNetwork(model.SerializeToString(), preprocessing=Preprocessing(image_size=16), classes=5)
    assert (box.graph.batch, box.classes, box.outputs) == (4, 5, "logits")
    images = torch.rand(11, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(box(images), showing.network(images), atol=1e-4)
        assert box(images[:1]).shape == (1, 5)


def test_the_jobs_normalisation_is_undone_and_its_own_applied(showing: Showing, content: bytes) -> None:
    box = OnnxNetwork(content, preprocessing=RGB, classes=5)
    pixels = torch.randint(0, 256, (3, 3, 16, 16)) / 255
    column = [torch.tensor(each).view(1, 3, 1, 1) for each in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), RGB.mean, RGB.std)]
    read = (pixels - column[0]) / column[1]
    other = box.fitted(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), image_size=16, channels=3)
    with torch.no_grad():
        assert torch.allclose(other(read), showing.network((pixels - column[2]) / column[3]), atol=1e-3)
        grey = box.fitted(mean=(0.0,), std=(1.0,), image_size=8, channels=1)
        assert grey(torch.rand(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("expects", "shape"),
    [
        (Preprocessing(image_size=4, layout="nhwc"), (2, 4, 4, 3)),
        (Preprocessing(image_size=4, layout="flat"), (2, 48)),
        (Preprocessing(image_size=4, channels=1), (2, 1, 4, 4)),
        (Preprocessing(image_size=16, interpolation="bicubic"), (2, 3, 16, 16)),
        (Preprocessing(image_size=16, interpolation="nearest"), (2, 3, 16, 16)),
    ],
)
def test_layouts_sizes_and_channels(expects: Preprocessing, shape: tuple[int, ...]) -> None:
    from engine.black_box import Fit

    images = torch.rand(2, 3, 8, 8)
    read = as_expected(images, fit=Fit((0.0,) * 3, (1.0,) * 3, 8, 3), expects=expects)
    assert read.shape == shape
    assert 0 <= float(read.min()) <= float(read.max()) <= 1


def test_bgr_and_bytes() -> None:
    from engine.black_box import Fit

    images = torch.rand(2, 3, 4, 4)
    expects = Preprocessing(image_size=4, channel_order="bgr", scale=255)
    read = as_expected(images, fit=Fit((0.0,) * 3, (1.0,) * 3, 4, 3), expects=expects)
    assert torch.allclose(read, images.flip(1) * 255)
    taking_bytes = graph(TensorProto.UINT8, 48)
    box = OnnxNetwork(taking_bytes, preprocessing=Preprocessing(image_size=4, scale=255, layout="flat"))
    with torch.no_grad():
        assert torch.equal(box(images), (images.flatten(1) * 255).round())


def graph(kind: int, width: int) -> bytes:
    """A graph that gives its rows back as floats."""
    node = helper.make_node("Cast", ["x"], ["logits"], to=TensorProto.FLOAT)
    given = helper.make_tensor_value_info("x", kind, ["batch", width])
    told = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])
    model = helper.make_model(
        helper.make_graph([node], "g", [given], [told]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_floats_of_every_width_are_fed(kind: int) -> None:
    box = OnnxNetwork(graph(kind, 16), preprocessing=Preprocessing(image_size=4, channels=1, layout="flat"))
    images = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        assert torch.allclose(box(images), images.flatten(1), atol=1e-3)


def test_a_graph_that_does_not_take_such_images_is_refused(classifier: Any) -> None:
    content = of_sklearn(classifier, zipmap=False)
    with pytest.raises(UnusableWeights, match=r"\[any, 64\]") as refused:
        OnnxNetwork(content, preprocessing=Preprocessing(image_size=32))
    assert refused.value.pointer == "/preprocessing"
    with pytest.raises(UnusableWeights, match="7 classes"):
        OnnxNetwork(content, preprocessing=DIGITS, classes=7)


def test_it_teaches_frozen_and_its_hash_is_guarded(showing: Showing, content: bytes) -> None:
    box = OnnxNetwork(content, preprocessing=Preprocessing(image_size=16), classes=5)
    teacher = FrozenTeacher(box)
    batch = Batch(torch.rand(3, 3, 16, 16), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert teacher.knowledge(batch).logits.requires_grad is False
    again = copy.deepcopy(box)
    assert state_sha256(again) == state_sha256(box)
    assert torch.equal(evaluate.answer(again, batch), evaluate.answer(box, batch))
    both = Ensemble([box, showing.network], merge="mean_logits")
    with torch.no_grad():
        assert torch.allclose(evaluate.answer(both, batch), showing.network(batch.images), atol=1e-4)


def test_what_a_job_delivers_tells_what_it_expects(classifier: Any) -> None:
    box = OnnxNetwork(of_sklearn(classifier, zipmap=False), preprocessing=DIGITS, classes=10)
    again = OnnxNetwork(box.described(), preprocessing=DIGITS, classes=10)
    assert told_preprocessing(again.graph) == DIGITS
    assert told_outputs(again.graph) == "probabilities"
    assert [each.key for each in onnx.ModelProto.FromString(box.described()).metadata_props][-2:] == [
        "distillery.preprocessing", "distillery.outputs",
    ]  # fmt: skip


def test_it_is_timed_in_onnx_runtime_alone(classifier: Any, digits: Dataset, tmp_path: Path) -> None:
    box = fitted(OnnxNetwork(of_sklearn(classifier, zipmap=False), preprocessing=DIGITS, classes=10), digits)
    (tmp_path / "teacher.onnx").write_bytes(box.described())
    student = build("resnet8", classes=10, image_size=8, channels=1).eval()
    (tmp_path / "student.safetensors").write_bytes(b"weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = compare(
            Contestant(box, weights=tmp_path / "teacher.onnx"),
            student=Contestant(student, weights=tmp_path / "student.safetensors"),
            dataset=digits,
            spec=LatencySpec(
                batch_sizes=(1,), runtimes=("eager", "onnxruntime"), devices=("cpu",), threads=1, seconds=1
            ),
            repeat_with="",
        )
    assert [each.runtime for each in told.comparisons] == ["onnxruntime"]
    teacher, _ = told.comparisons[0].rows
    assert (teacher.parameters, teacher.macs) == (650, None)
    assert any(note.startswith("Not measured: eager") for note in told.notes)
    again = _contestant(tmp_path / "teacher.onnx", TeacherSpec(weights="teacher.onnx"), dataset=digits)
    images = torch.zeros(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.network(images), box(images)), "the delivered file is enough to measure it again"
