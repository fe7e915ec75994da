"""The child process: what it hears, what it may see, and that nothing of it is left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.process import Child, environment, tail


def _child(folder: Path, code: str, *, tells: bool = True) -> Child:
    return Child([sys.executable, "-c", code], folder=folder, log=folder / "log", tells=tells)


def _read_all(child: Child) -> list[bytes]:
    lines: list[bytes] = []
    give_up = time.monotonic() + 60
    while not child.ended:
        assert time.monotonic() < give_up, "the child did not end"
        lines += child.read(timeout=0.05)
    return lines


def test_lines_come_in_order_and_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    child = _child(tmp_path, "import os, sys; os.write(int(sys.argv[2]), b'one\\ntwo\\nthr')")
    assert _read_all(child) == [b"one\n", b"two\n"]
    assert child.close() == 0


def test_output_goes_to_the_log_and_its_tail_can_be_told(tmp_path: Path) -> None:
    child = _child(tmp_path, "import sys; print('x' * 5000); sys.exit('it ended badly')", tells=False)
    _read_all(child)
    assert child.close() == 1
    assert tail(tmp_path / "log").endswith("it ended badly")
    assert len(tail(tmp_path / "log")) <= 2000
    assert tail(tmp_path / "no-such-log") == ""


def test_a_trainer_sees_no_secret_of_the_service() -> None:
    given = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "CUDA_VISIBLE_DEVICES": "1",
        "DISTILLERY_DATA": "/data",
        "TOKENIZERS_PARALLELISM": "false",
        "DISTILLERY_DATABASE_URL": "postgresql://me:hidden@db/x",
        "DISTILLERY_REDIS_URL": "redis://:hidden@r/0",
        "DISTILLERY_ARTIFACTS": "s3://key:hidden@bucket",
        "DISTILLERY_API_KEY": "hidden",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_PROFILE": "hidden",
        "PGPASSWORD": "hidden",
        "GITHUB_TOKEN": "hidden",
        "CELERY_BROKER_URL": "redis://:hidden@r/0",
    }
    seen = environment(given, scratch=Path("/scratch"))
    assert "hidden" not in " ".join(seen.values())
    assert {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "DISTILLERY_DATA", "TOKENIZERS_PARALLELISM"} <= seen.keys()
    assert (seen["OMP_WAIT_POLICY"], seen["GOMP_SPINCOUNT"]) == ("PASSIVE", "5000")
    assert seen["TMPDIR"] == "/scratch"


def test_a_trainer_keeps_the_memory_that_it_will_need_again(tmp_path: Path) -> None:
    # Buffers as a training step makes and drops them, twice: the second time must not fault their pages in anew.
    code = """
import os, resource, sys
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b'x' * 2**20 for _ in range(64)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
os.write(int(sys.argv[2]), f'{faults()} {faults()}\\n'.encode())
"""
    child = _child(tmp_path, code)
    (line,) = _read_all(child)
    first, second = (int(each) for each in line.split())
    assert child.close() == 0
    assert first > 10_000  # 64 MiB in pages of 4 KiB
    assert second < first / 100


def test_an_allocator_that_was_set_up_by_hand_is_left_alone() -> None:
    given = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}
    assert environment(given, scratch=Path("/scratch"))["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2"


def test_sigterm_reaches_the_leader_alone(tmp_path: Path) -> None:
    # The leader asks its own child for a last service after SIGTERM, as a data loader's workers would be asked.
    code = """
import os, signal, subprocess, sys, time
helper = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def leave(*_):
    answer, _ = helper.communicate(b'alive')
    os.write(int(sys.argv[2]), answer + b'\\n')
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
os.write(int(sys.argv[2]), b'ready\\n')
while True:
    time.sleep(0.05)
"""
    child = _child(tmp_path, code)
    while child.read(timeout=1) != [b"ready\n"]:
        pass
    child.ask_to_stop(grace_seconds=10)
    assert _read_all(child) == [b"alive\n"]
    assert child.close() == 75


def test_a_child_that_is_deaf_is_overdue_and_can_be_killed(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(int(sys.argv[2]), b'ready\\n')
time.sleep(600)
"""
    child = _child(tmp_path, code)
    while child.read(timeout=1) != [b"ready\n"]:
        pass
    assert not child.overdue
    child.ask_to_stop(grace_seconds=0)
    assert child.overdue
    child.kill()
    _read_all(child)
    assert child.close() == -signal.SIGKILL


def test_a_grandchild_that_holds_the_pipe_goes_with_its_leader(tmp_path: Path, alive: Callable[[int], bool]) -> None:
    code = """
import os, subprocess, sys
fd = int(sys.argv[2])
left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=(fd,))
os.write(fd, b'%d\\n' % left.pid)
"""
    child = _child(tmp_path, code)
    (line,) = _read_all(child)
    assert child.close() == 0
    give_up = time.monotonic() + 30
    while alive(int(line)):
        assert time.monotonic() < give_up, "the grandchild lives on"
        time.sleep(0.01)


def test_closing_a_child_that_was_not_read_kills_it_even_when_it_floods_the_pipe(tmp_path: Path) -> None:
    child = _child(tmp_path, "import os, sys\nwhile True: os.write(int(sys.argv[2]), b'x\\n' * 1000)")
    assert child.read(timeout=20)[0] == b"x\n"
    assert child.close() == -signal.SIGKILL


def test_a_child_dies_with_the_process_that_started_it(tmp_path: Path, alive: Callable[[int], bool]) -> None:
    code = f"""
import sys, time
from pathlib import Path
from worker.process import Child
folder = Path({str(tmp_path)!r})
child = Child([sys.executable, '-c', 'import time; time.sleep(600)'], folder=folder, log=folder / 'log', tells=False)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    give_up = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < give_up, "the child outlived its parent"
        time.sleep(0.01)


def test_a_child_whose_parent_died_before_the_tie_does_not_start(tmp_path: Path) -> None:
    tether = Path(__file__).parents[2] / "worker" / "tether.py"
    someone_else = "1"
    begun = tmp_path / "begun"
    command = [sys.executable, "-I", "-S", str(tether), someone_else, "/bin/sh", "-c", f"touch {begun}"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not begun.exists()


def test_no_file_descriptor_is_left_open(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        return {each.name for each in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    for _ in range(3):
        child = _child(tmp_path, "pass")
        _read_all(child)
        child.close()
    give_up = time.monotonic() + 30
    while len(descriptors()) > len(before):
        assert time.monotonic() < give_up, "descriptors leak"
        time.sleep(0.01)


@pytest.mark.parametrize("program", ["/no/such/program"])
def test_a_program_that_cannot_start_ends_with_its_reason_in_the_log(tmp_path: Path, program: str) -> None:
    child = Child([program], folder=tmp_path, log=tmp_path / "log")
    _read_all(child)
    assert child.close() == 1
    assert "No such file or directory" in tail(tmp_path / "log")
