"""The program that looks into models that were brought along: what it finds, mends, measures and refuses."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from distillery.convert import convert
from distillery.views import ModelFacts
from engine.checkpoint import sha256_of
from engine.data.packed import PackedWriter
from engine.weights import read_metadata
from models import build
from tests.models.test_published_weights import images_of
from worker.inspect_model import main
from worker.messages import Delivered, Failed, Inspected, Message, PhaseBegan, parse

DATASET = "dts_00000000000000000000000001"
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
EXPECTS = {"image_size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DIGITS = {"image_size": 8, "channels": 1, "scale": 16, "layout": "flat"}
ROOT = Path(__file__).resolve().parents[2]


def inspected(source: Path, out: Path, *, packed: Path | None = None, **said: Any) -> list[Message]:
    """The program in a process of its own, as the supervisor starts it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "import.json").write_text(json.dumps({"name": "m", "path": str(source), **said}))
    command = [sys.executable, "-m", "worker.inspect_model", str(out / "import.json"), "--out", str(out / "made")]
    command += ["--source", str(source), "--named", source.name, "--events-fd", "1"]
    command += ["--dataset", str(packed)] if packed else []
    ended = subprocess.run(command, cwd=ROOT, capture_output=True)
    told = [parse(line) for line in ended.stdout.splitlines()]
    assert (ended.returncode == 0) == isinstance(told[-1], Inspected), ended.stderr.decode()
    assert isinstance(told[0], PhaseBegan)
    return told


def facts(told: list[Message]) -> ModelFacts:
    assert isinstance(told[-1], Inspected) and isinstance(told[1], Delivered)
    found = told[-1].facts
    assert (told[1].name, told[1].sha256, told[1].size_bytes) == (found.file, found.sha256, found.size_bytes)
    assert sha256_of(Path(told[1].path)) == found.sha256
    return found


def here(source: Path, out: Path, **said: Any) -> Any:
    """The same in this process, which has torch already: the error that it told, or the facts."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "import.json").write_text(json.dumps({"name": "m", "path": str(source), **said}))
    from distillery.errors import DistilleryError
    from distillery.spec.imports import ModelImport
    from engine.inspection import Subject, inspect
    from engine.intake import weights

    try:
        kind = weights.check(source)
        wish = ModelImport.model_validate_json((out / "import.json").read_bytes())
        return inspect(Subject(path=source, named=source.name, said=wish, out=out), kind=kind).facts
    except DistilleryError as error:
        return error


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of seven classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build("resnet14", classes=7, image_size=32, channels=3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as the service keeps them: every fifth for the test, every seventh for the validation."""
    pixels, labels = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("digits") / "packed.dstl"
    rows = np.arange(len(labels))
    split = np.where(rows % 5 == 0, 2, np.where(rows % 7 == 0, 1, 0)).astype(np.uint8)
    with PackedWriter(path, task="image-classification", channels=1) as writer:
        for row, image in enumerate(pixels):
            writer.add_image((image.reshape(1, 8, 8) * 15.9375).astype(np.uint8), name=f"digits/{row:04d}.png")
        writer.finish(classes=[f"digit {at}" for at in range(10)], labels=labels.astype(np.int64), split=split)
    return path


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 10,000 test images of CIFAR-10, and a few more for the splits that must not be empty."""
    import os

    root = Path(os.environ.get("DISTILLERY_DATA", ROOT.parent / "shared" / "data"))
    path = tmp_path_factory.mktemp("cifar") / "packed.dstl"
    labels: list[int] = []
    split: list[int] = []
    with PackedWriter(path, task="image-classification", channels=3) as writer:
        for images, label in images_of(root / "cifar10" / "cifar10_test.zip"):
            for image in images.numpy():
                writer.add_image(image, name=f"{len(labels)}")
                labels.append(label)
                split.append(2)
            for other in (0, 1):
                noise = np.random.default_rng(label).integers(0, 256, (3, 32, 32), dtype=np.uint8)
                writer.add_image(noise, name=f"noise{label}-{other}")
                labels.append(label)
                split.append(other)
        writer.finish(classes=CIFAR, labels=np.array(labels), split=np.array(split, dtype=np.uint8))
    return path


def test_the_published_resnet20_measures_what_its_author_published(data_root: Any, cifar: Path, tmp_path: Path) -> None:
    (pickled,) = data_root("cifar10-resnet-weights").glob("resnet20-*.th")
    made = convert(pickled, out=tmp_path / "resnet20.safetensors")
    said = {"architecture": "resnet20", "preprocessing": EXPECTS, "dataset": {"id": DATASET}}
    found = facts(inspected(made.path, tmp_path / "out", packed=cifar, **said))
    assert found.measured is not None
    assert (found.measured.images, found.measured.data) == (10_000, DATASET)
    assert 100 * found.measured.top1.value == pytest.approx(91.73, abs=0.05)
    assert (found.parameters, found.classes) == (269_722, tuple(CIFAR))
    assert read_metadata(tmp_path / "out" / "made" / found.file)["architecture"] == "resnet20"


def test_a_graph_from_scikit_learn_is_tried_and_measured(digits: Path, tmp_path: Path) -> None:
    from skl2onnx import to_onnx

    pixels, labels = load_digits(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = to_onnx(LogisticRegression(max_iter=300).fit(pixels, labels), pixels[:1].astype(np.float32))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    told = inspected(
        tmp_path / "m.onnx", tmp_path / "out", packed=digits, preprocessing=DIGITS, dataset={"id": DATASET}
    )
    found = facts(told)
    assert (found.format, found.architecture, found.outputs, found.batch) == ("onnx", "onnx", "probabilities", None)
    assert found.classes == tuple(f"digit {at}" for at in range(10))
    assert found.measured is not None and found.measured.top1.value > 0.95
    assert "zipmap" in " ".join(found.notes)
    assert (tmp_path / "out" / "made" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_a_table_by_name_is_turned_into_numbers(digits: Path, tmp_path: Path) -> None:
    _, labels = load_digits(return_X_y=True)
    names = np.array([f"digits/{row:04d}.png" for row in range(len(labels))])
    np.savez(tmp_path / "t.npz", ids=names, logits=np.eye(10, dtype=np.float32)[labels] * 5)
    found = facts(inspected(tmp_path / "t.npz", tmp_path / "out", packed=digits, dataset={"id": DATASET}))
    assert (found.format, found.samples, found.outputs) == ("table", 1797, "logits")
    assert found.measured is not None and found.measured.top1.value == 1
    with np.load(tmp_path / "out" / "made" / "table.npz") as kept:
        assert kept["ids"].tolist() == list(range(1797))
    np.savez(tmp_path / "few.npz", ids=names[:1700], logits=np.zeros((1700, 10), dtype=np.float32))
    told = inspected(tmp_path / "few.npz", tmp_path / "less", packed=digits, dataset={"id": DATASET})
    assert isinstance(told[-1], Failed)
    assert "test samples" in told[-1].error.detail and "the first is the sample 17" in told[-1].error.detail


def test_prefixes_are_mended_and_classes_and_channels_read_from_the_shapes(weights_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    wrapped = tmp_path / "wrapped.safetensors"
    save_file({f"_orig_mod.module.{name}": each for name, each in load_file(weights_file).items()}, wrapped)
    found = here(wrapped, tmp_path / "out", architecture="resnet14", preprocessing=EXPECTS)
    assert (len(found.classes), found.preprocessing.channels, found.classes[0]) == (7, 3, "0")
    assert "'_orig_mod.module.'" in " ".join(found.notes)
    with safe_open(tmp_path / "out" / found.file, framework="pt") as file:
        assert "linear.weight" in file.keys()  # noqa: SIM118 - not a dict


def test_another_architecture_that_fits_is_named(weights_file: Path, tmp_path: Path) -> None:
    refused = here(weights_file, tmp_path / "out", architecture="resnet32", preprocessing=EXPECTS)
    assert (refused.code, refused.pointer) == ("UNUSABLE_WEIGHTS", "/architecture")
    assert "missing: layer1.2" in refused.detail and "more" in refused.detail
    assert "weights of resnet14" in refused.hint
    found = here(weights_file, tmp_path / "guessed", preprocessing=EXPECTS)
    assert found.architecture == "resnet14" and "told by the shapes" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"architecture": "resnet14"}, "/preprocessing"),
        ({"architecture": "resnet15", "preprocessing": EXPECTS}, "/architecture"),
        ({"architecture": "resnet14", "preprocessing": EXPECTS, "classes": ["a", "b"]}, "/classes"),
        ({"architecture": "resnet14", "preprocessing": {**EXPECTS, "mean": [0.1, 0.2]}}, "/preprocessing/mean"),
    ],
)
def test_what_is_not_told_or_does_not_fit_is_pointed_at(
    said: dict[str, Any], pointer: str, weights_file: Path, tmp_path: Path
) -> None:
    assert here(weights_file, tmp_path / "out", **said).pointer == pointer


def test_weights_that_are_not_finite_are_refused(weights_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    spoilt = load_file(weights_file)
    spoilt["conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(spoilt, tmp_path / "nan.safetensors")
    refused = here(tmp_path / "nan.safetensors", tmp_path / "out", architecture="resnet14", preprocessing=EXPECTS)
    assert "not finite, in conv1.weight" in refused.detail


def test_bgr_and_bytes_are_turned_into_rgb_from_0_to_1(weights_file: Path, tmp_path: Path) -> None:
    from engine.weights import load_safetensors

    expects = {"image_size": 32, "mean": [10, 20, 30], "std": [50, 60, 70], "scale": 255, "channel_order": "bgr"}
    found = here(weights_file, tmp_path / "out", architecture="resnet14", preprocessing=expects)
    theirs, ours = (build("resnet14", classes=7, image_size=32, channels=3).eval() for _ in range(2))
    load_safetensors(theirs, weights_file)
    load_safetensors(ours, tmp_path / "out" / found.file)
    pixels = torch.rand(2, 3, 32, 32)
    column = [torch.tensor(values).view(1, 3, 1, 1) for values in ((10.0, 20.0, 30.0), (50.0, 60.0, 70.0))]
    told = [torch.tensor(values).view(1, 3, 1, 1) for values in (found.preprocessing.mean, found.preprocessing.std)]
    with torch.no_grad():
        expected = theirs((pixels.flip(1) * 255 - column[0]) / column[1])
        assert torch.allclose(ours((pixels - told[0]) / told[1]), expected, atol=1e-3)


def test_published_stems_of_torchvision_fit_at_their_own_size(tmp_path: Path) -> None:
    name = "torchvision/resnet18"
    save_file(build(name, classes=5, image_size=224, channels=3).state_dict(), tmp_path / "t.safetensors")
    found = here(tmp_path / "t.safetensors", tmp_path / "out", architecture=name, preprocessing=EXPECTS)
    assert (found.preprocessing.image_size, len(found.classes)) == (224, 5)
    assert "used at 224" in " ".join(found.notes)


def test_a_first_layer_that_shapes_cannot_tell_is_said(tmp_path: Path) -> None:
    name = "torchvision/shufflenet_v2_x0_5"
    save_file(build(name, classes=5, image_size=224, channels=3).state_dict(), tmp_path / "t.safetensors")
    found = here(tmp_path / "t.safetensors", tmp_path / "out", architecture=name, preprocessing=EXPECTS)
    assert "do not tell whether the first layer steps by one" in " ".join(found.notes)
    large = {**EXPECTS, "image_size": 224}
    told = here(tmp_path / "t.safetensors", tmp_path / "large", architecture=name, preprocessing=large)
    assert told.notes == ()


def test_an_import_that_is_none_is_told(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "bad.json").write_text("{}")
    code = main([str(tmp_path / "bad.json"), "--out", str(tmp_path), "--source", str(tmp_path), "--named", "x"])
    assert code == 1 and "no import of a model" in capfd.readouterr().err
