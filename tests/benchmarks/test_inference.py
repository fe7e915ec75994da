"""The benchmark of predictions at its smallest: every cell is measured, nothing but 200 and 429 answered."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "inference.py"
TINY = (
    "--rounds=1", "--seconds=0.5", "--clients=1", "--clients=8", "--crowd=32", "--image-size=8", "--teacher=resnet14",
    "--student=resnet8",
)  # fmt: skip


def test_it_measures_load_cold_start_and_overload(tmp_path: Path) -> None:
    page = tmp_path / "inference.md"
    done = subprocess.run(
        [sys.executable, SCRIPT, *TINY, f"--out={page}"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text in done.stdout
    assert len(re.findall(r"^\| (?:API|worker) \| (?:student|teacher) \| [18] \|", text, re.MULTILINE)) == 8
    assert "nan" not in text
    assert "| anything else | none |" in text
    refused = re.search(r"^\| answered with 429 \| ([\d.]+)% \|$", text, re.MULTILINE)
    assert refused is not None
    assert float(refused[1]) > 0
