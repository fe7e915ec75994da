"""Signs of a noisy machine, from times that are known."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from distillery.report import Estimated
from engine import environment
from engine.environment import ProcessorTime
from engine.latency import noise
from engine.latency.throttling import throttled, told

CPU = torch.device("cpu")


def test_calls_that_differ_too_much_are_told_and_others_are_not() -> None:
    quiet = [1.0 + 0.001 * (n % 10) for n in range(100)]
    wild = [1.0 if n % 2 else 1.5 for n in range(100)]
    (found,) = noise.of_calls({"teacher": quiet, "student": wild})
    assert found.kind == "spread" and "student" in found.detail
    assert noise.spread(wild) == pytest.approx(0.5 / 1.25)
    assert noise.spread([1.0]) == 0.0


@pytest.mark.parametrize(("last", "word"), [(1.2, "slower"), (0.8, "faster")])
def test_a_pace_that_changes_is_told_with_its_direction(last: float, word: str) -> None:
    medians = list(np.linspace(1.0, last, 30))
    (found,) = noise.of_rounds({"student": medians, "teacher": [1.0] * 30})
    assert found.kind == "drift"
    assert word in found.detail and "student" in found.detail


def test_one_slow_round_and_few_rounds_are_no_drift() -> None:
    assert list(noise.of_rounds({"student": [1.0] * 29 + [9.0]})) == []
    assert list(noise.of_rounds({"student": [1.0, 2.0, 3.0]})) == []


def test_a_warm_up_that_did_not_settle_names_whose_it_was() -> None:
    (found,) = noise.of_warmups({"teacher": True, "student": False, "control": False})
    assert found.kind == "unsteady_warmup" and "student, control" in found.detail
    assert list(noise.of_warmups({"teacher": True})) == []


def test_a_control_that_hides_everything_is_told() -> None:
    (found,) = noise.of_control(Estimated(value=1.0, low=0.9, high=1.1))
    assert found.kind == "wide_control"
    assert list(noise.of_control(Estimated(value=1.0, low=0.99, high=1.01))) == []


def test_a_process_that_burns_a_core_is_seen_and_our_own_work_is_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as burning:
        assert burning.stdout is not None
        burning.stdout.readline()
        since = ProcessorTime.now()
        _work(1.0)
        found = [each.kind for each in noise.of_machine(CPU, since)]
        burning.kill()
    assert found == ["shared_processor"]


def test_our_own_work_alone_is_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does is taken out: all that is busy is this process."""
    monkeypatch.setattr(environment, "_busy_seconds", time.process_time)
    since = ProcessorTime.now()
    _work(0.3)
    assert list(noise.of_machine(CPU, since)) == []


def _work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, ""),
        (0x1 | 0x4, ""),  # idle, and at its power cap, as under any full load
        (0x20, "too hot (software thermal slowdown)"),
        (0x8 | 0x40, "hardware slowdown, too hot (hardware thermal slowdown)"),
    ],
)
def test_reasons_of_a_slow_clock_are_told_in_words(bits: int, words: str) -> None:
    assert told(bits) == words


def test_without_the_library_nothing_is_said_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert throttled(torch.device("cuda")) == ""


def test_the_fingerprint_is_of_what_makes_figures_comparable() -> None:
    described = environment.describe(threads=1)
    again = environment.fingerprint({**described, "load_average_1min": 99.0})
    assert environment.fingerprint(described) == again
    assert environment.fingerprint({**described, "threads": 2}) != again
    assert environment.fingerprint({**described, "cpu": "another"}) != again
    assert os.cpu_count()
