"""What a job hands over besides its report: every form of the student answers alike where nothing else is known."""

import copy
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from distillery.errors import ExportMismatch
from engine.delivered import network_of
from engine.latency.own_process import in_own_process
from engine.quantise import quantise
from engine.reloading import Reloaded, few, samples
from tests.worker.test_studies import Told, digits, report, run, spec  # noqa: F401 - a fixture among them
from worker import exports

ROOT = Path(__file__).parents[2]
ASKS = """
import sys, numpy, torch
sys.path.insert(0, sys.argv[1])
assert "models" not in sys.modules
program = torch.export.load(sys.argv[2]).module()
images = torch.from_numpy(numpy.load(sys.argv[3]))
numpy.save(sys.argv[4], torch.cat([program(images), program(images[:1])]).detach().numpy())
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    asked = spec(
        export=["safetensors", "onnx", "onnx-int8", "torch-export"],
        labels={"license": "apache-2.0", "license.data": "CC-BY-4.0"},
        baseline=False,
    )
    return run(asked, tmp_path_factory.mktemp("exports"))


def _path(told: Told, name: str) -> Path:
    return Path(told.files[name].path)


def test_every_form_is_delivered_and_answers_as_the_student_does(told: Told, digits) -> None:  # noqa: F811
    names = ("student.safetensors", "student.onnx", "student.int8.onnx", "student.pt2")
    small = few(digits)
    network = network_of(_path(told, names[0]), dataset=small, otherwise="resnet8")
    with torch.inference_mode():
        expected = network(samples(small)).numpy()
    work = Reloaded(tuple(_path(told, name) for name in names), small, architecture="resnet8")
    answers = dict(zip(names, in_own_process(work, on_tick=lambda: None), strict=True))
    for name in names:
        tolerance = 0.2 if "int8" in name else 1e-4
        np.testing.assert_allclose(answers[name], expected, atol=tolerance * np.abs(expected).max())
    assert _path(told, "student.int8.onnx").stat().st_size < 0.6 * _path(told, "student.onnx").stat().st_size


def test_the_program_runs_without_the_code_of_the_network_for_any_batch(told: Told, digits, tmp_path: Path) -> None:  # noqa: F811
    images = samples(few(digits)).numpy()
    np.save(tmp_path / "images.npy", images)
    arguments = [str(tmp_path), _path(told, "student.pt2"), tmp_path / "images.npy", tmp_path / "answers.npy"]
    subprocess.run([sys.executable, "-I", "-c", ASKS, *arguments], check=True, cwd=tmp_path)
    answers = np.load(tmp_path / "answers.npy")
    onnx = onnxruntime.InferenceSession(str(_path(told, "student.onnx"))).run(None, {"images": images})[0]
    np.testing.assert_allclose(answers[:-1], onnx, atol=1e-4)
    np.testing.assert_allclose(answers[-1], onnx[0], atol=1e-4)


def test_no_form_tells_of_the_machine_that_wrote_it(told: Told) -> None:
    for name in ("student.onnx", "student.int8.onnx", "student.pt2", "predict.py", "model_card.md"):
        content = _path(told, name).read_bytes()
        parts = [content]
        if name.endswith(".pt2"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                parts += [archive.read(each) for each in archive.namelist()]
        for part in parts:
            assert str(ROOT).encode() not in part, name
            assert str(Path(told.files[name].path).parent).encode() not in part, name


def test_the_script_answers_as_the_report_says_the_student_does(told: Told, digits, tmp_path: Path) -> None:  # noqa: F811
    chosen = range(0, len(digits.test), 12)
    for place in chosen:
        Image.fromarray(digits.test.images[place, 0].numpy()).save(tmp_path / f"{place}.png")
    files = [tmp_path / f"{place}.png" for place in chosen]
    command = [sys.executable, _path(told, "predict.py"), _path(told, "student.onnx"), *files]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    firsts = [lines[lines.index(str(file)) + 1].split()[-1] for file in files]
    session = onnxruntime.InferenceSession(str(_path(told, "student.onnx")))
    mean, std = digits.mean[0], digits.std[0]
    images = ((digits.test.images[list(chosen)].numpy() / 255 - mean) / std).astype(np.float32)
    expected = session.run(None, {"images": images})[0].argmax(axis=1)
    assert firsts == [digits.classes[each] for each in expected]


def test_the_model_card_tells_data_teacher_method_numbers_and_licences(told: Told) -> None:
    card = _path(told, "model_card.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    student = next(each for each in report(told).quality if each.role == "student")
    assert f"{100 * student.top1.value:.1f}" in body
    for words in ("## Data", "resnet14", "CC-BY-4.0", "predict.py", "reproduce.yaml", "not stated"):
        assert words in body


def test_a_file_that_answers_otherwise_ends_the_job(
    told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spoilt(network, path, **shape) -> None:
        with torch.no_grad():
            network = copy.deepcopy(network)
            next(network.parameters()).mul_(1.5)
        real(network, path, **shape)

    real = exports.export_program
    monkeypatch.setattr(exports, "export_program", spoilt)
    with pytest.raises(ExportMismatch, match=r"student\.pt2"):
        run(spec(export=["torch-export"], baseline=False), tmp_path)


def test_a_form_of_eight_bits_that_loses_too_much_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def badly(onnx, out, *, calibration) -> None:
        quantise(onnx, out, calibration=[each * 0.02 for each in calibration])

    monkeypatch.setattr(exports, "quantise", badly)
    told = run(spec(export=["onnx-int8"], baseline=False), tmp_path)
    assert any("student.int8.onnx loses" in each for each in report(told).warnings)
    assert "student.onnx" not in told.files
