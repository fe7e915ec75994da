"""Threads are as many as may run: by the affinity of the process and the quota of its control group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import cores
from engine.cores import default_threads, usable_cores

TELL = "from engine.cores import usable_cores; print(usable_cores())"
PREPARED = """
import sys
from pathlib import Path
import torch
from distillery.spec import parse, resolve
from worker.journal import Journal
from worker.messages import Resolved
from worker.study import distil

class Teller:
    def tell(self, message):
        if isinstance(message, Resolved):
            print(torch.get_num_threads(), message.spec.training.threads)
            raise SystemExit

spec = resolve(parse({"dataset": {"kind": "digits", "image_size": 8}, "student": {"architecture": "resnet8"},
    "teacher": {"architecture": "resnet8", "train": {"epochs": 1}}, "training": {"epochs": 1, "device": "cpu"}}))
distil(spec, journal=Journal(out=Path(sys.argv[1]), teller=Teller(), spec=spec), teacher_weights={}, resume=None)
"""


def on_one_core(code: str, *arguments: str) -> str:
    """What a process prints that may use a single core."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{code}", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_a_process_counts_the_cores_that_it_may_use() -> None:
    assert on_one_core(TELL) == "1"
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_a_trainer_on_one_core_takes_one_thread(tmp_path: Path) -> None:
    """It took as many as the machine has cores, which then waited for each other at every barrier."""
    assert on_one_core(PREPARED, str(tmp_path)) == "1 1"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "300000 100000"}, 3),
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/seen/from/outside", {"cpu.max": "400000 100000"}, 4),
        ("4:memory:/\n3:cpu,cpuacct:/c", {"cpu,cpuacct/c/cpu.cfs_quota_us": "200000",
                                          "cpu,cpuacct/c/cpu.cfs_period_us": "100000"}, 2),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpuset:/", {"cpu.max": "100000 100000"}, 64),
        ("0::/", {}, 64),
        (None, {"cpu.max": "100000 100000"}, 64),
    ],
)  # fmt: skip
def test_a_quota_counts_as_whole_cores(
    cgroup: str | None, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    if cgroup is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert usable_cores(root=tmp_path) == expected


@pytest.mark.parametrize(
    ("told", "threads"), [("3", 3), (" 2 ", 2), ("4,2", 4), ("", 64), ("0", 64), ("-1", 64), ("many", 64), ("²", 64)]
)
def test_who_tells_the_number_of_threads_is_obeyed(told: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert default_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == 64
