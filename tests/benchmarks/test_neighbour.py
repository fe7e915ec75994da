"""The neighbour's benchmark: its trainer trains beside a busy core, and its page holds what was measured."""

import argparse

import psutil

from benchmarks import neighbour
from benchmarks.api import Block


def test_a_trainer_trains_beside_a_busy_core_that_is_gone_afterwards():
    others = set(psutil.Process().children(recursive=True))
    assert neighbour.images_per_second("ours", 1, seconds=0.1, beside=True) > 0
    left = set(psutil.Process().children(recursive=True)) - others
    assert [each for each in left if "spawn_main" in " ".join(each.cmdline())] == []


def test_each_way_of_waiting_has_a_row_with_what_it_kept():
    found = neighbour.Found(foreign=[0.25])
    for policy, threads in neighbour.WAYS:
        found.loops[policy, threads, False], found.loops[policy, threads, True] = [100.0, 200.0], [50.0, 50.0]
    block = Block((0.001, 0.002), 1.0)
    found.api = {False: [block], True: [block]}
    options = argparse.Namespace(rounds=2, seconds=1.0)
    page = neighbour.report(found, options, command="python -m benchmarks.neighbour", load_before=0.0)
    for policy, threads in neighbour.WAYS:
        assert f"| {policy} | {threads} | 150 (100 to 200) | 50 (50 to 50) | 0.38 (0.25 to 0.50) |" in page
    assert "others kept 0.25 cores busy at the most" in page
    assert "| beside a trainer of one thread | " in page
