"""Whole studies under teachers whose weights nobody sees: an ONNX graph from scikit-learn, and tables of answers."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from distillery.errors import DistilleryError, InvalidRequest, UnfitTeacher
from distillery.spec.preprocessing import Preprocessing
from distillery.tables import report_table
from engine.data.dataset import Dataset
from engine.data.readers import load
from tests.worker.test_studies import RECIPE, Told, report, run, spec
from worker.messages import Warned
from worker.teacher_weights import require_classes

EXPECTS = {"image_size": 8, "channels": 1, "scale": 16, "layout": "flat"}
PLAIN = {**RECIPE, "epochs": 1}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(spec().dataset)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier from scikit-learn, as it is exported without thinking."""
    from skl2onnx import to_onnx

    pixels, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(pixels, labels)
    path = tmp_path_factory.mktemp("graph") / "logistic.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(to_onnx(model, pixels[:1].astype(np.float32)).SerializeToString())
    return path


@pytest.fixture(scope="module")
def table(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three likeliest classes of every sample."""
    parts = (digits.train, digits.validation, digits.test)
    ids, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "labels"))
    indices = (labels.unsqueeze(1) + torch.arange(3)) % 10
    values = torch.tensor([0.8, 0.1, 0.05]).expand(len(ids), -1)
    path = tmp_path_factory.mktemp("table") / "answers.npz"
    np.savez(path, ids=ids.numpy(), indices=indices.numpy(), values=values.numpy())
    return path


def warned(told: Told) -> str:
    return " ".join(each.message for each in told.of(Warned))


def test_a_graph_from_scikit_learn_teaches_and_is_delivered(graph: Path, tmp_path: Path) -> None:
    job = spec(teacher={"weights": str(graph), "preprocessing": EXPECTS}, training=PLAIN)
    told = run(job, tmp_path)
    assert {"teacher.onnx", "student.safetensors", "report.json"} <= told.files.keys()
    assert "teacher.safetensors" not in told.files
    found = report(told)
    teacher = found.quality[0]
    assert (teacher.role, teacher.architecture, teacher.parameters, teacher.macs) == ("teacher", "onnx", 650, None)
    assert teacher.top1.value > 0.9
    page = Path(told.files["report.html"].path).read_text()
    assert "650" in page
    assert report_table(found) is not None
    again = spec(teacher={"weights": told.files["teacher.onnx"].path}, training=PLAIN)
    assert report(run(again, tmp_path / "again")).quality[0].top1 == teacher.top1, "it tells what it expects"


def test_a_table_teaches_is_not_timed_and_warns_of_augmentation(table: Path, tmp_path: Path) -> None:
    job = spec(
        teacher={"weights": str(table)}, training=PLAIN, latency={"batch_sizes": [1]},
        dataset={"kind": "digits", "augment": ["crop"]},
    )  # fmt: skip
    told = run(job, tmp_path)
    assert {"teacher-table.npz", "student.safetensors"} <= told.files.keys()
    assert "latency.json" not in told.files
    found = report(told)
    assert (found.quality[0].top1.value, found.quality[0].parameters, found.latency) == (1.0, None, None)
    assert "latency was not measured" in warned(told)
    assert "plain images" in warned(told)


def test_a_network_a_graph_and_a_table_teach_together(graph: Path, table: Path, tmp_path: Path) -> None:
    members = [
        {"weights": str(graph), "preprocessing": EXPECTS}, {"weights": str(table)},
        {"architecture": "resnet8", "train": {"epochs": 1}},
    ]  # fmt: skip
    told = run(spec(teacher={"members": members, "merge": "mean_probabilities"}, training=PLAIN), tmp_path)
    assert {"teacher1.onnx", "teacher2-table.npz", "teacher3.safetensors"} <= told.files.keys()
    assert not {"teacher.safetensors", "teacher.onnx"} & told.files.keys()
    roles = {each.role: each for each in report(told).quality}
    assert roles["teacher"].file_bytes == sum(roles[f"teacher{number}"].file_bytes for number in (1, 2, 3))


@pytest.mark.parametrize("pairs", ["auto", "embedding", [{"student": "layer1", "teacher": "layer1"}]])
def test_terms_that_read_layers_are_refused_for_what_shows_none(pairs: Any, table: Path, tmp_path: Path) -> None:
    terms = [{"term": "cross_entropy"}, {"term": "hint", "pairs": pairs}]
    job = spec(teacher={"weights": str(table)}, method={"objective": terms})
    with pytest.raises(InvalidRequest, match=r"black box|no layer 'layer1' of the teacher") as refused:
        run(job, tmp_path)
    assert refused.value.pointer == "/method/objective/1/pairs"


@pytest.fixture(scope="module")
def showing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional graph, not trained, that gives its maps beside its logits."""
    draw = np.random.default_rng(0).standard_normal
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, draw(shape).astype(np.float32).tobytes(), raw=True)
        for name, shape in (("k", (6, 1, 3, 3)), ("w", (6, 10)), ("b", (10,)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["maps"]),
        helper.make_node("ReduceMean", ["maps"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w", "b"], ["logits"]),
    ]
    told = [
        helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 6, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10]),
    ]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    graph = helper.make_graph(nodes, "g", [images], told, initializer=constants)
    path = tmp_path_factory.mktemp("showing") / "maps.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_output_of_a_graph_is_a_hint(showing: Path, tmp_path: Path) -> None:
    teacher = {"weights": str(showing), "preprocessing": {"image_size": 8, "channels": 1}, "minimum_accuracy": 0}
    for place, pairs in enumerate(("last", [{"student": "layer1", "teacher": "maps"}])):
        terms = [{"term": "cross_entropy"}, {"term": "hint", "pairs": pairs}]
        told = run(spec(teacher=teacher, training=PLAIN, method={"objective": terms}), tmp_path / str(place))
        hint = [each for each in report(told).curves if each.key == "training/loss/hint"]
        assert hint and all(value is not None and value > 0 for value in hint[0].values)


def test_a_data_free_job_cannot_learn_from_a_graph(graph: Path, tmp_path: Path) -> None:
    job = spec(
        teacher={"weights": str(graph), "preprocessing": EXPECTS},
        method={"strategy": "data_free", "synthesis": "dafl", "steps_per_epoch": 4},
    )  # fmt: skip
    with pytest.raises(DistilleryError, match="gradient"):
        run(job, tmp_path)


def test_a_graph_must_tell_what_it_expects(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not tell what it expects") as refused:
        run(spec(teacher={"weights": str(graph)}), tmp_path)
    assert refused.value.pointer == "/teacher/preprocessing"


def test_classes_in_another_order_are_told_from_other_classes(digits: Dataset) -> None:
    from dataclasses import replace

    named = replace(digits, classes=tuple("abcdefghij"))
    require_classes(tuple("abcdefghij"), named)
    require_classes(tuple(map(str, range(10))), named)
    with pytest.raises(UnfitTeacher) as order:
        require_classes(tuple("abdcefghij"), named)
    assert (order.value.code, order.value.pointer) == ("CLASS_ORDER", "/teacher")
    assert "Output 2 of the teacher is 'd', class 2 of the data 'c'" in order.value.hint
    for others in (tuple("abcdefghiz"), tuple("abc"), tuple(map(str, range(7)))):
        with pytest.raises(UnfitTeacher) as differ:
            require_classes(others, named)
        assert differ.value.code == "CLASSES_DIFFER"


def test_the_spec_takes_what_a_graph_expects() -> None:
    teacher = spec(teacher={"weights": "t.onnx", "preprocessing": EXPECTS}).teachers[0]
    assert teacher.preprocessing == Preprocessing.model_validate(EXPECTS)
    assert json.loads(teacher.model_dump_json())["architecture"] == ""
