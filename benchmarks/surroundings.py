"""Where the figures of a page come from: machine, versions, and how busy others kept it."""

import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("uvicorn", "fastapi", "sqlalchemy", "psycopg")


def heading(title: str, *, command: str, load_before: float, packages: Sequence[str] = PACKAGES) -> list[str]:
    """The first lines of a page: what wrote it, when, and on which machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    named = ", ".join(f"{package} {version(package)}" for package in packages)
    return [
        f"# {title}",
        "",
        f"Written by `{command}`, {datetime.now(UTC).date()}.",
        "",
        f"- Machine: {cpu or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
        f"load before the run {load_before:.1f}.",
        f"- Python {platform.python_version()}, {named}.",
    ]


def others_busy(seconds: float) -> float:
    """How many cores are kept busy in the next `seconds`, in which this process and what it measures only wait."""
    before = _busy_seconds()
    time.sleep(seconds)
    return (_busy_seconds() - before) / seconds


def _busy_seconds() -> float:
    """user + nice + system + irq + softirq + steal of all cores, from /proc/stat."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
