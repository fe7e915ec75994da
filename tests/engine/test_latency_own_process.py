"""What happens in the process of a comparison stays there: its crash is told, and it does not outlive who wants it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillery.errors import DistilleryError, ExportMismatch, OutOfMemory, RuntimeCrashed
from engine.latency.own_process import in_own_process, is_out_of_memory

Tick = Callable[[], None]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Works:
    factor: int

    def __call__(self, tick: Tick) -> tuple[int, int]:
        tick()
        return 6 * self.factor, os.getpid()


@dataclass(frozen=True)
class Dies:
    number: int

    def __call__(self, tick: Tick) -> None:
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class Leaves:
    code: int

    def __call__(self, tick: Tick) -> None:
        os._exit(self.code)


@dataclass(frozen=True)
class Raises:
    error: Exception

    def __call__(self, tick: Tick) -> None:
        raise self.error


@dataclass(frozen=True)
class Waits:
    told: Path

    def __call__(self, tick: Tick) -> None:
        self.told.write_text(str(os.getpid()))
        while True:
            signal.sigtimedwait({signal.SIGUSR1}, 0.05)


def nothing() -> None:
    pass


def test_it_works_in_another_process_and_gives_what_was_made() -> None:
    made, pid = in_own_process(Works(7), on_tick=nothing)
    assert made == 42
    assert pid != os.getpid()


def test_it_works_where_temporary_folders_lie_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert in_own_process(Works(1), on_tick=nothing)[0] == 6
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGSEGV, RuntimeCrashed), (signal.SIGKILL, OutOfMemory)])
def test_a_crash_is_an_error_that_names_the_signal(number: signal.Signals, kind: type[DistilleryError]) -> None:
    with pytest.raises(RuntimeCrashed, match=number.name) as told:
        in_own_process(Dies(number), on_tick=nothing)
    assert type(told.value) is kind


def test_leaving_without_an_answer_is_told_with_its_code() -> None:
    with pytest.raises(RuntimeCrashed, match="code 3"):
        in_own_process(Leaves(3), on_tick=nothing)


def test_errors_of_ours_come_across_as_they_are_and_others_by_their_name() -> None:
    with pytest.raises(ExportMismatch, match="disagrees") as told:
        in_own_process(Raises(ExportMismatch("It disagrees.", hint="Mend it.", pointer="/a")), on_tick=nothing)
    assert (told.value.hint, told.value.pointer) == ("Mend it.", "/a")
    with pytest.raises(RuntimeCrashed, match="ZeroDivisionError: one over none"):
        in_own_process(Raises(ZeroDivisionError("one over none\nand more")), on_tick=nothing)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
    ],
)
def test_a_lack_of_memory_is_known_by_what_the_runtimes_say(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(OutOfMemory):
        in_own_process(Raises(error), on_tick=nothing)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_process_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeCrashed, match="it hung"):
        in_own_process(Waits(tmp_path / "pid"), on_tick=nothing, silence_seconds=0.5)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_what_is_raised_meanwhile_ends_the_process(tmp_path: Path) -> None:
    class Abandoned(Exception):
        pass

    def abandon() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise Abandoned

    with pytest.raises(Abandoned):
        in_own_process(Waits(tmp_path / "pid"), on_tick=abandon)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from test_latency_own_process import Waits, nothing\n"
        "from engine.latency.own_process import in_own_process\n"
        "if __name__ == '__main__': in_own_process(Waits(pathlib.Path(sys.argv[3])), on_tick=nothing)\n"
    )
    script, told = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, script, ROOT, Path(__file__).parent, told])
    give_up = time.monotonic() + 60
    while not (told.exists() and told.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pid = int(told.read_text())
    while not _gone(pid):
        assert time.monotonic() < give_up, "the process goes on without its parent"
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_temporary_files_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    code = (
        "from tests.engine.test_latency_own_process import Works; from engine.latency.own_process import in_own_process"
    )
    code += "; print(in_own_process(Works(7), on_tick=lambda: None)[0])"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(deep)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert told.stdout == "42\n", told.stderr
