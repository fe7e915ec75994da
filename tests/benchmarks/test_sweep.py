"""The sweep at its smallest: all jobs run, a peer's one is counted for each, and the ratio is that of the table."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--data=digits", "--pair=resnet14:resnet8", "--peers=textbook", "--images=96", "--epochs=2", "--batch-size=32",
    "--threads=1", "--seconds=0.5",
)  # fmt: skip


def test_it_tells_what_eight_jobs_cost(tmp_path):
    page = tmp_path / "sweep.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sweep", *TINY, f"--out={page}"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text in done.stdout
    seconds = {
        name: float(value) for name, value in re.findall(r"^\| \*{0,2}([a-z: ]+)\*{0,2} \| ([\d.]+) \|", text, re.M)
    }
    assert seconds.keys() == {"textbook", "ours: cached"}
    told = re.search(r"takes textbook, the best peer, ([\d.]+) times as long", text)
    assert told is not None
    peer, ours = seconds["textbook"], seconds["ours: cached"]  # each told to a tenth
    assert (peer - 0.05) / (ours + 0.05) - 0.005 <= float(told[1]) <= (peer + 0.05) / (ours - 0.05) + 0.005
