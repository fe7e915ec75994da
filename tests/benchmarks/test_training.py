"""The contest of training loops at its smallest: every contender trains, and the page holds what was asked for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.contest.accuracy import Run, table

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--data=digits",
    "--pair=resnet14:resnet8",
    "--peers=textbook",
    "--images=160",
    "--threads=1",
    "--batch-size=32",
    "--teacher-epochs=1",
)


def page_of(tmp_path: Path, *options: str) -> str:
    page = tmp_path / "training.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *TINY, *options, f"--out={page}"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert page.read_text() in done.stdout
    return page.read_text()


def test_it_measures_rates_ratios_floors_and_a_whole_job(tmp_path):
    # What is compiled, and forms that are tried, take a minute each to begin: the other test has them.
    only = "--only=live fp32,cached fp32"
    text = page_of(tmp_path, only, "--rounds=2", "--seconds=0.2", "--whole-job=96", "--job-epochs=2")
    assert "nan" not in text
    for name in ("live fp32", "cached fp32"):
        row = re.search(rf"^\| \*\*ours: {name}\*\* \| fp32 \| ([\d,]+) \(.*\| [\d.]+ \(.*\) \|$", text, re.MULTILINE)
        assert row is not None
        assert int(row[1].replace(",", "")) > 0
    live, cached = (re.search(rf"ours: {name} ([\d,]+)", text) for name in ("live fp32", "cached fp32"))
    assert int(cached[1].replace(",", "")) < int(live[1].replace(",", "")), (
        "no operations of a teacher that is not asked"
    )
    assert re.search(r"^\| textbook \| fp32 \| [\d,]+ \(.*\| 1\.00 \(1\.00 to 1\.00\)", text, re.MULTILINE)
    assert len(re.findall(r"^\| [12] \| ", text, re.MULTILINE)) == 2
    assert "**Not measured against torchdistill**" in text
    assert "A whole job of 2 epochs on 96 images" in text
    assert re.search(
        r"^- resnet14: trained here on 160 images for 1 epochs, \d+\.\d% right on [\d,]+ test", text, re.MULTILINE
    )


def test_it_scores_every_option(tmp_path):
    only = "--only=live + form + compile"
    text = page_of(tmp_path, "--accuracy", only, "--seeds=1", "--epochs=1", "--labelled=64")
    row = re.search(r"^\| live fp32 \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| \+0\.00 \| yes \|", text, re.MULTILINE)
    assert row is not None
    assert re.search(r"^\| live \+ form \+ compile \| [\d.]+ \(", text, re.MULTILINE)
    lowest, highest = float(row[2]), float(row[3])
    assert 0 <= lowest <= float(row[1]) <= highest <= 100


def test_an_option_passes_within_what_the_seeds_of_the_reference_differ():
    def runs(*scores):
        return [Run(score, 100.0, 2.0) for score in scores]

    found = {"live fp32": runs(0.50, 0.52, 0.54), "near": runs(0.52, 0.54, 0.59), "far": runs(0.46, 0.47, 0.48)}
    _, _, reference, near, far = table(found)
    assert reference == "| live fp32 | 52.00 (50.00 to 54.00) | +0.00 | yes | 100 | 2.0 |"
    assert near == "| near | 55.00 (52.00 to 59.00) | +3.00 | yes | 100 | 2.0 |"
    assert far == "| far | 47.00 (46.00 to 48.00) | -5.00 | **no** | 100 | 2.0 |"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--peers=somebody", "Unknown: somebody. There are torchdistill, textbook."),
        ("--teacher-weights=weights.th", "takes NAME=FILE, such as resnet56=weights.th, and not 'weights.th'."),
        ("--teacher-weights=resnet14=nowhere.th", "there is no file 'nowhere.th'."),
    ],
)
def test_what_cannot_be_meant_is_refused(option, told):
    with pytest.raises(SystemExit, match=re.escape(told)):
        training.options_of(["--data=digits", option])
