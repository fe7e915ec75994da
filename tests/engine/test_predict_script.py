"""`predict.py` answers as the engine does, on a Python that has onnxruntime, numpy and pillow and nothing of ours."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from engine.data.image_folder import decoded
from engine.data.resize import squared
from engine.export import export_onnx
from engine.predict_script import render

NEEDED = ("onnxruntime", "numpy", "numpy.libs", "PIL", "pillow.libs", "flatbuffers")
SIZE, MEAN, STD = 12, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ODD = ("quote \" and ' both", "line\nbreak", "'''\"\"\"", "back\\slash \\N{BULLET}", "Käse 🧀", "{{ 7 * 7 }} {% raw %}")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three packages and what they need, and no torch."""
    folder = tmp_path_factory.mktemp("site")
    packages = Path(onnxruntime.__file__).parents[1]
    for name in NEEDED:
        if (packages / name).exists():
            (folder / name).symlink_to(packages / name)
    return folder


def _asked(script: Path, *arguments: object, bare: Path) -> "subprocess.CompletedProcess[str]":
    """Run it isolated (`-I -S`), so that only the folder `bare` and the standard library can be imported."""
    program = (
        f"import runpy, sys; sys.path.append({str(bare)!r}); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "print('torch' in sys.modules, 'distillery' in sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _student(channels: int, folder: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, len(ODD))).eval()
    export_onnx(network, folder / "student.onnx", channels=channels, image_size=SIZE)
    return network, folder / "student.onnx"


def _script(folder: Path, *, channels: int) -> Path:
    path = folder / "predict.py"
    text = render(classes=ODD, image_size=SIZE, channels=channels, mean=MEAN[:channels], std=STD[:channels])
    path.write_text(text)
    return path


def _expected(network: nn.Module, image: Path, *, channels: int) -> np.ndarray:
    pixels = squared(decoded(image, channels=channels)[None], size=SIZE) / 255
    mean, std = (torch.tensor(each[:channels])[:, None, None] for each in (MEAN, STD))
    with torch.inference_mode():
        return network((pixels - mean) / std).softmax(dim=1)[0].numpy()


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L"), (3, "RGBA"), (3, "P"), (1, "RGB")])
def test_it_answers_as_the_engine_does_without_torch(channels: int, mode: str, tmp_path: Path, bare: Path) -> None:
    network, onnx = _student(channels, tmp_path)
    script = _script(tmp_path, channels=channels)
    picture = tmp_path / "picture.png"
    noise = np.random.default_rng(3).integers(0, 256, size=(SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(picture)
    told = _asked(script, onnx, picture, bare=bare)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert (lines[0], lines[-1]) == (str(picture), "False False")
    expected = _expected(network, picture, channels=channels)
    assert len(lines) == 7
    for line, place in zip(lines[1:6], np.argsort(-expected), strict=False):
        share, name = line.strip().split("  ", 1)
        assert abs(float(share[:-1]) / 100 - expected[place]) < 2e-4
        assert name == (ODD[place] if ODD[place].isprintable() else repr(ODD[place]))


def test_a_larger_picture_is_cut_and_resized_as_it_is_in_training(tmp_path: Path, bare: Path) -> None:
    network, onnx = _student(3, tmp_path)
    picture = tmp_path / "wide.png"
    rows, columns = np.mgrid[0:40, 0:64]
    smooth = np.stack([rows * 4, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(picture)
    told = _asked(_script(tmp_path, channels=3), onnx, picture, bare=bare)
    assert told.returncode == 0, told.stderr
    shares = [float(each) / 100 for each in re.findall(r"^ +([\d.]+)%", told.stdout, flags=re.MULTILINE)]
    expected = np.sort(_expected(network, picture, channels=3))[::-1][:5]
    np.testing.assert_allclose(shares, expected, atol=5e-3)  # one grey level in a pixel


def test_it_stands_on_three_packages_and_is_short(tmp_path: Path) -> None:
    tree = ast.parse(_script(tmp_path, channels=3).read_text(encoding="ascii"))
    imported = {
        (each.module or "").partition(".")[0] if isinstance(each, ast.ImportFrom) else each.names[0].name
        for each in ast.walk(tree)
        if isinstance(each, (ast.Import, ast.ImportFrom))
    }
    assert imported == {"sys", "numpy", "onnxruntime", "PIL"}
    assert find_spec("flatbuffers") is not None, "onnxruntime itself needs it"
    assert sum(1 for each in ast.walk(tree) if isinstance(each, ast.stmt)) <= 32


def test_without_an_image_it_tells_how_it_is_used(tmp_path: Path, bare: Path) -> None:
    told = _asked(_script(tmp_path, channels=3), bare=bare)
    assert told.returncode == 1
    assert "predict.py student.onnx image.png" in told.stderr
