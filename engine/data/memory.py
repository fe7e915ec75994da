"""Whether a data set fits into memory, asked before it is read: the kernel's answer to too much is SIGKILL."""

import resource
from pathlib import Path

from distillery.errors import UnreadableData

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_COMFORT = 2
"""Networks, gradients and batches need memory too."""


def require(size_bytes: int, *, what: str) -> None:
    """Refuse what is larger than the memory that is left.

    Raises:
        UnreadableData: `what` needs more bytes than there are.
    """
    left = available_bytes()
    if left is not None and size_bytes > left:
        raise UnreadableData(
            f"{what} needs {_gib(size_bytes)} GiB in memory; {_gib(left)} GiB are available.",
            hint="Set a smaller 'image_size' or a 'limit', or use a machine with more memory.",
        )


def holds_comfortably(size_bytes: int) -> bool:
    """Whether so much can stay in memory for a whole job; where nobody tells, it can."""
    left = available_bytes()
    return left is None or _COMFORT * size_bytes <= left


def available_bytes(*, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that this process may still take, by the kernel, the control group and its own limit of data (`ulimit
    -d`); None where none of them tells."""
    asked = (_of_machine(meminfo), _of_group(cgroup), _of_process())
    return min((bytes_left for bytes_left in asked if bytes_left is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_group(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        # Cached file pages count as used, but are given back when memory is asked for.
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(statistics.get("inactive_file", 0)))


def _of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return limit
    used = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)
    return max(0, limit - used)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.2f}"
