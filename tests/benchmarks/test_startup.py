"""The start-up benchmark, one round: every row is measured on a service that really starts and trains."""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.startup import ROWS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_it_measures_every_row(tmp_path: Path) -> None:
    page = tmp_path / "startup.md"
    command = [sys.executable, "-m", "benchmarks.startup", "--short", f"--out={page}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    assert written in done.stdout
    rows = re.findall(r"^\| (.+?) \| \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\) \| .* \|$", written, re.MULTILINE)
    assert rows == [row.name for row in ROWS.values()]
