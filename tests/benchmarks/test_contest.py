"""Turns, and what the tables make of them."""

import subprocess
import sys

import pytest

from benchmarks.contest import images, tables
from benchmarks.contest.task import Task
from benchmarks.contest.turns import FOREIGN_SHARE, Turn, contenders, interleaved, quiet, to_the_end


def turn(rate, *, foreign=0.0, cpu=2.0):
    """Of one second."""
    return Turn(count=rate, wall=1.0, cpu=cpu, foreign=foreign)


def round_of(torchdistill, textbook, ours, *, foreign=0.0):
    floor = turn(1000 * 100)
    return {
        "torchdistill": turn(torchdistill), "textbook": turn(textbook), "ours: live fp32": turn(ours, foreign=foreign),
        "floor: fp32": floor,
    }  # fmt: skip


@pytest.fixture
def few(tmp_path):
    return str(images.write(images.gather("digits", count=64, tests=4), tmp_path / "few.npz"))


def test_a_ratio_is_taken_against_the_best_peer_of_its_round():
    rounds = [round_of(100, 50, 200), round_of(100, 400, 200)]
    assert tables.ratios(rounds, "ours: live fp32", pace=tables.wall) == [2.0, 0.5]
    assert tables.ratios(rounds, "textbook", pace=tables.cpu) == [0.5, 1.0]


def test_loaded_rounds_are_left_out_and_told():
    rounds = [round_of(100, 100, 200), round_of(1, 1, 1000, foreign=2 * FOREIGN_SHARE)]
    measured = tables.Measured(
        "a",
        "b",
        rounds,
        {name: {"precision": "fp32"} for name in rounds[0]},
        dict.fromkeys(rounds[0], 100.0),
        "drawn",
    )
    assert measured.counted == rounds[:1]
    text = "\n".join([*tables.rates_table(measured), *tables.rounds_table(measured)])
    assert "| **ours: live fp32** | fp32 | 200 (200 to 200) | 2.00 (2.00 to 2.00) |" in text
    assert "| 0.20 (0.20 to 0.20) |" in text, "200 images of 100 operations a second, of 100,000"
    assert "| 2 | 1 | 1 | 1,000 | 10.0% **(loaded)** |" in text
    assert "In 1 of 2 rounds others took more than 5%" in text


def test_where_every_round_is_loaded_the_page_says_that_it_means_little():
    rounds = [round_of(100, 100, 200, foreign=1.0)]
    assert quiet(rounds) == []
    assert "so the figures above mean little" in tables.load_told(rounds)


def test_one_job_of_a_peer_counts_as_often_as_it_is_told():
    cost = tables.Cost.of([turn(1), turn(1, foreign=0.5)], times=8)
    assert (cost.seconds, cost.cpu, cost.foreign) == (16.0, 32.0, 0.25)


def test_who_burns_the_cores_is_seen(few):
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with contenders([Task("floor: fp32", few, "resnet8", "resnet8")]) as running:
            (turns,) = interleaved(running, rounds=1, seconds=2.0)
    finally:
        for each in burning:
            with each:
                each.kill()
    assert turns["floor: fp32"].foreign > FOREIGN_SHARE


def test_a_job_ends_after_its_last_image_and_counts_each(few):
    tasks = [Task(name, few, "resnet8", "resnet8", batch_size=16, epochs=2) for name in ("textbook", "ours: live fp32")]
    with contenders(tasks) as running:
        turns = to_the_end(running, seconds=0.0)
    for taken in turns.values():
        assert [each.done for each in taken] == [False] * (len(taken) - 1) + [True]
        assert sum(each.count for each in taken) == 2 * 64


def test_a_contender_that_breaks_off_says_why(few):
    with pytest.raises(SystemExit, match="No variant is called 'somehow'"):
        contenders([Task("ours: somehow", few, "resnet8", "resnet8")]).__enter__()
