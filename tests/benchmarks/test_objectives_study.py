"""The study of objectives on a few real digits: it writes its page, its plot and its lines, and resumes."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "objectives.py"
TINY = (
    "--data=digits", "--seeds=2", "--only=labels,kd,self_distillation", "--epochs=1", "--teacher-epochs=1",
    "--limit=100", "--workers=1", "--device=cpu",
)  # fmt: skip


def study(out: Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, *TINY, f"--out={out}"], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_trains_what_is_asked_for_writes_what_it_found_and_resumes(tmp_path):
    first = study(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert sorted(line["configuration"] for line in lines) == [
        *("kd", "kd", "labels", "labels", "self_distillation", "self_distillation"), "teacher resnet20",
    ]  # fmt: skip
    assert all(0 <= line["best"] <= 1 and line["failed"] is None for line in lines)
    page = (tmp_path / "objectives.md").read_text()
    assert page in first
    for line in lines:
        if line["configuration"] == "teacher resnet20":
            assert f"| teacher resnet20 | {100 * line['best']:.2f} |" in page
    assert "| kd | " in page and "exit 1, behind layer1" in page
    assert (tmp_path / "objectives.svg").read_text().startswith("<svg")
    again = study(tmp_path)
    assert again.startswith("0 networks to train")
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(lines)
