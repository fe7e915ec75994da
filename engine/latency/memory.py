"""How much memory loading a network and answering one batch takes: on CUDA exactly, on Linux as resident memory."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Made = TypeVar("Made")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak resident set to the current one


def peak_growth(work: Callable[[], Made], *, device: torch.device, in_torch: bool) -> tuple[Made, int | None]:
    """Do `work`; give what it made and how many bytes the memory in use grew at its peak, or None if untold.

    On CUDA this is what torch's allocator handed out, so it is told only for work done `in_torch`. On the CPU it is
    the growth of the resident set, after the C library has given its free pages back: without that, memory freed
    earlier would be used again and not be seen. Told on Linux with glibc alone.
    """
    if device.type == "cuda":
        return _cuda_growth(work, device) if in_torch else (work(), None)
    if not _give_free_pages_back() or not _reset_peak():
        return work(), None
    before = _resident("VmRSS")
    made = work()
    peak = _resident("VmHWM")
    return made, max(0, peak - before) if before is not None and peak is not None else None


def _cuda_growth(work: Callable[[], Made], device: torch.device) -> tuple[Made, int]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    made = work()
    torch.cuda.synchronize(device)
    return made, torch.cuda.max_memory_allocated(device) - before


def _give_free_pages_back() -> bool:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    """VmRSS or VmHWM of this process in bytes."""
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(f"{field}:")]
    return int(found[0].split()[1]) * 1024 if found else None
