"""What a measurement ran on: processor, GPU, versions, threads, load. Plain values for the reports."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.cores import usable_cores

PACKAGES = (
    "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "safetensors", "distillery",
)  # fmt: skip
_PASSING = ("load_average_1min",)
"""What changes from one minute to the next on the same machine."""


def describe(*, threads: int | None = None) -> dict[str, Any]:
    """The machine and its software. `threads` are the CPU threads a measurement uses; None tells PyTorch's own."""
    described: dict[str, Any] = {
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", "not set"),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", "not set"),
        "load_average_1min": load_average(),
        "versions": versions(),
    }
    if torch.cuda.is_available():
        described |= _gpu()
    return described


def fingerprint(described: Mapping[str, Any]) -> str:
    """The sha256 of what a machine and its software are, in hexadecimal: where it differs, so may every time."""
    lasting = {name: value for name, value in described.items() if name not in _PASSING}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The installed version of each package that a result may depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name as the system tells it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def load_average() -> float | None:
    """The one-minute load, this process included; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    cudnn_version: Callable[[], int | None] = torch.backends.cudnn.version  # carries no annotations
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": cudnn_version(),
        "gpu_driver": _driver(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
    }


def _driver() -> str:
    """The NVIDIA driver's version, from the file that the driver itself keeps on Linux."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


@dataclass(frozen=True)
class ProcessorTime:
    """Processor seconds spent so far: by everything on the machine (None where the system does not tell), by us."""

    wall: float
    all_busy: float | None
    own: float

    @classmethod
    def now(cls) -> "ProcessorTime":
        return cls(wall=time.monotonic(), all_busy=_busy_seconds(), own=time.process_time())


def others_busy(since: ProcessorTime) -> float | None:
    """How many cores other processes (and other guests of the host) kept busy on average since then."""
    now = ProcessorTime.now()
    if now.all_busy is None or since.all_busy is None or now.wall <= since.wall:
        return None
    others = (now.all_busy - since.all_busy) - (now.own - since.own)
    return max(0.0, others / (now.wall - since.wall))


def _busy_seconds() -> float | None:
    """user + nice + system + irq + softirq + steal of all cores, from /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
