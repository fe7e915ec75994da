"""Where the figures of a page come from: machine, versions, and how busy others kept it."""

import os
import platform
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
