"""A tiny run: what does not fit is not loaded, what is mapped is trained on, and the page says so."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    "--gib=0.46", "--limit-gib=0.4", "--side=64", "--steps=6", "--rounds=1", "--batch-size=4", "--without-cold"
)  # fmt: skip
"""The network itself needs up to 0.2 GiB on processors with large vector units, for which oneDNN makes longer code."""
_ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_a_file_that_does_not_fit_is_trained_on(tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "folder"
    folder.mkdir()
    page.write_text("# Old figures\n\n## What follows\n\nBy hand.\n")
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", *SMALL, f"--folder={folder}"]
    done = subprocess.run([*command, f"--markdown={page}"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert "Unable to allocate" in text and text.endswith("## What follows\n\nBy hand.\n")
    rows = {title: figures for title, *figures in _ROW.findall(text)}
    assert all(float(cell.partition(" ")[0].replace(",", "")) > 0 for cell in rows["training, images/s"])
    assert "training against memory, round by round; goal 0.90" in rows
    assert list(folder.iterdir()) == []
