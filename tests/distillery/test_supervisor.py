"""Children that die are started again, children that do not leave are killed, and nobody outlives the supervisor."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from distillery.supervisor import Child, Signals, Supervisor, supervisor

DEADLINE_SECONDS = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child(tmp_path: Path, code: str, *, name: str = "child", grace_seconds: float = 30.0) -> Child:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return Child(name, command, dict(os.environ), tmp_path / f"{name}.log", grace_seconds)


def says(held: Child, text: str) -> Callable[[], bool]:
    return lambda: held.log.exists() and text in held.log.read_text()


def test_a_child_that_dies_is_told_of_and_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    once = f"""
        import pathlib, sys, time
        mark = pathlib.Path({str(tmp_path / "mark")!r})
        if not mark.exists():
            mark.touch()
            sys.exit(3)
        print("alive", flush=True)
        time.sleep(60)
    """
    with supervisor(say=told.append) as held:
        mortal = child(tmp_path, once)
        held.start(mortal)
        assert held.until(says(mortal, "alive"), every_seconds=0.02)
    assert told == [f"child ended with code 3; it is started again in 1 s. Its log: {mortal.log}"]


def test_pauses_double_to_a_limit_and_a_long_life_starts_them_afresh(tmp_path: Path) -> None:
    now = 0.0
    mortal = Child("child", [sys.executable, "-c", ""], {}, tmp_path / "log", 1.0, clock=lambda: now)
    pauses = []
    for _ in range(8):
        mortal.start()
        assert mortal.process is not None
        mortal.process.wait()
        assert mortal.look() == 0
        pauses.append(mortal.pause_seconds)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    mortal.start()
    assert mortal.process is not None
    mortal.process.wait()
    now += 3600
    assert mortal.look() == 0
    assert (mortal.pause_seconds, mortal.due) == (1, 3601)
    assert mortal.look() is None


def test_children_are_stopped_one_after_the_other_the_last_started_first(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with supervisor(say=print) as held:
        for name in ("api", "worker"):
            code = f"""
                import signal, sys, time
                def leave(*_):
                    time.sleep(0.2 if {name!r} == "worker" else 0)
                    open({str(record)!r}, "a").write("{name} ")
                    sys.exit()
                signal.signal(signal.SIGTERM, leave)
                print("ready", flush=True)
                time.sleep(60)
            """
            one = child(tmp_path, code, name=name)
            held.start(one)
            assert held.until(says(one, "ready"), every_seconds=0.02)
    assert record.read_text() == "worker api "


STUBBORN = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_child_that_does_not_leave_is_killed_with_its_own_children(tmp_path: Path) -> None:
    told: list[str] = []
    with supervisor(say=told.append) as held:
        stubborn = child(tmp_path, STUBBORN, grace_seconds=0.1)
        held.start(stubborn)
        assert held.until(says(stubborn, "ready"), every_seconds=0.02)
        assert stubborn.process is not None
        family = [psutil.Process(stubborn.process.pid), *psutil.Process(stubborn.process.pid).children()]
    assert told == ["child does not leave and is killed."]
    assert len(family) == 2
    wait_for(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family))


def test_a_stop_signal_ends_the_watch_and_a_second_one_the_patience(tmp_path: Path) -> None:
    with supervisor(say=lambda _: None) as held:
        stubborn = child(tmp_path, STUBBORN, grace_seconds=600.0)
        held.start(stubborn)
        assert held.until(says(stubborn, "ready"), every_seconds=0.02)
        signal.raise_signal(signal.SIGINT)
        assert not held.until(lambda: False, every_seconds=600.0)
        signal.raise_signal(signal.SIGINT)
    assert stubborn.process is not None
    assert stubborn.process.returncode == -signal.SIGKILL


def test_signals_are_as_before_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.wait(5) == {signal.SIGTERM}
        assert signals.wait(0) == set()
    assert {number: signal.getsignal(number) for number in before} == before


def test_children_of_a_killed_supervisor_are_told_to_leave(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from distillery.supervisor import Child, Signals, Supervisor
with Signals() as signals:
    child = Child("child", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ),
                  Path({str(tmp_path / "log")!r}), 1.0)
    Supervisor(signals, print).start(child)
    print(child.process.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_for(lambda: not orphan.is_running())


def test_a_log_that_has_grown_large_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.supervisor._LOG_BYTES", 10)
    talker = child(tmp_path, "print('a long line of text')")
    with Signals() as signals:
        held = Supervisor(signals, print)
        for _ in range(2):
            held.start(talker)
            assert talker.process is not None
            talker.process.wait()
    assert talker.tail() == "a long line of text"
    assert (tmp_path / "child.log.1").read_text() == "a long line of text\n"
