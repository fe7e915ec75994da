"""How many threads are worth having: those that the system lets run at once."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def default_threads() -> int:
    """How many threads compute where nobody asked for a number: as many as `OMP_NUM_THREADS` says, the usual way to
    tell every program of a machine, and otherwise one for each usable core.
    """
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of a list, the outermost region's
    return int(told) if told.isascii() and told.isdecimal() and int(told) > 0 else usable_cores()


def usable_cores(*, root: Path = Path("/")) -> int:
    """The cores that this process may use: those of its affinity, and no more than the quota of its control group and
    of those around it pays for (`cpu.max` of version 2, `cpu.cfs_quota_us` of version 1), at least one.

    A part of a core is not counted: a thread that is stopped in the middle of each period holds the others up at the
    next barrier. `root` is where `/proc` and `/sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """In cores; none where the system has no control groups, or they are out of sight."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _read(root / "sys/fs/cgroup", group, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            for place in (controllers, "cpu"):
                yield from _read(root / "sys/fs/cgroup" / place, group, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def _read(hierarchy: Path, group: str, files: tuple[str, ...]) -> Iterator[float]:
    """The quotas of a group and of all around it. Within a container its own group is seen as the hierarchy's root."""
    inner = hierarchy / group.lstrip("/")
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(hierarchy):
            try:
                told = " ".join((folder / name).read_text(encoding="utf-8") for name in files).split()
                quota, period = float(told[0]), float(told[1])
            except (OSError, ValueError, IndexError):  # 'max' is no number: there is no limit
                continue
            if quota > 0 and period > 0:
                yield quota / period
