"""The steps for a GPU, on the CPU and a few digits: each runs, and the next one finds what the last one left."""

import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import cuda_training

TINY = (
    "--images=digits", "--device=cpu", "--limit=96", "--batches", "32", "--rounds=1", "--seconds=0.2",
    "--teacher=resnet14", "--teacher-of-rates=resnet14", "--student=resnet8", "--epochs=1", "--batch-size=32",
    "--seeds=2", "--only=live fp32,cached fp32",
)  # fmt: skip


def test_every_step_appends_its_section(tmp_path):
    page, weights = tmp_path / "cuda.md", tmp_path / "teacher.pt"
    for step in ("rates", "epoch", "teacher", "students"):
        cuda_training.main([step, *TINY, f"--weights={weights}", f"--out={page}"])
    text = page.read_text()
    assert weights.is_file()
    assert text.count("**no GPU**") == 4
    assert "### Batch 32" in text
    assert re.search(r"^\| 32 \| [\d,]+ \| [\d.]+ \|$", text, re.MULTILINE), "seconds of an epoch"
    for title in ("labels", "teacher and labels"):
        scores = re.search(rf"^\| {title} \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|", text, re.MULTILINE)
        assert scores is not None
        assert 0 <= float(scores[2]) <= float(scores[1]) <= float(scores[3]) <= 100


def test_images_travel_in_parts(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        with zipfile.ZipFile(tmp_path / f"cifar10_{split}.zip", "w") as archive:
            for number in numbers:
                Image.fromarray(drawn[number]).save(tmp_path / "one.webp", lossless=True)
                archive.write(tmp_path / "one.webp", f"{split}/{'ab'[number % 2]}/{number}.webp")
    size = (tmp_path / "one.webp").stat().st_size
    parts, images = tmp_path / "parts", tmp_path / "all.npz"
    cuda_training.main(["pack", f"--data={tmp_path}", f"--parts={parts}", f"--part-bytes={3 * size}"])
    found = sorted(parts.iterdir())
    assert len(found) > 1
    for part in found:
        cuda_training.main(["join", f"--part={part}", f"--images={images}"])
    arrays = cuda_training.arrays_of(cuda_training.options_of(["epoch", f"--images={images}", "--device=cpu"]))
    for pixels, labels, numbers in (
        (arrays.x_train, arrays.y_train, range(4)), (arrays.x_test, arrays.y_test, range(4, 6)),
    ):  # fmt: skip
        back = {image.tobytes(): int(label) for image, label in zip(pixels, labels, strict=True)}
        assert back == {drawn[number].tobytes(): number % 2 for number in numbers}


@pytest.mark.parametrize("missing", ["teacher", "students"])
def test_a_step_says_what_it_needs(missing, capsys):
    with pytest.raises(SystemExit):
        cuda_training.main([missing, "--images=digits", "--device=cpu"])
    assert "needs --weights" in capsys.readouterr().err
