"""How much memory loading a network and answering one batch takes: on CUDA exactly, on Linux as resident memory."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from engine.data.memory import available_bytes

Made = TypeVar("Made")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak resident set to the current one

_SAID = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "_status_alloc_failed",
    "is smaller than requested bytes",
)
"""In lower case: PyTorch's allocators, C++ (also through OpenVINO), cuBLAS and cuDNN, ONNX Runtime's arena."""


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


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, in the words of Python, PyTorch, ONNX Runtime, OpenVINO or CUDA.

    None of the runtimes but PyTorch on CUDA has a type for it: they say it in the text of a plain RuntimeError, or
    (ONNX Runtime) of an exception of their own. What does not say so is another failure and stays one.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    of_runtime = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return of_runtime and any(words in str(error).lower() for words in _SAID)


@dataclass(frozen=True)
class Memory:
    """What is asked of the memory while batches grow."""

    growth: Callable[[Callable[[], None]], int | None]
    """Does the work and tells by how many bytes memory grew at its peak, or None."""
    left: Callable[[], int | None]
    """Bytes that may still be taken, or None."""
    release: Callable[[], None]
    """Gives back what a failed attempt has left behind."""


def memory_of(device: torch.device) -> Memory:
    """On the CPU memory is watched beforehand, as a kernel that runs out of it kills; on CUDA it is an error."""
    if device.type == "cuda":
        return Memory(growth=_only_done, left=lambda: None, release=_release_cuda)

    def growth(work: Callable[[], None]) -> int | None:
        return peak_growth(work, device=device, in_torch=False)[1]

    return Memory(growth=growth, left=available_bytes, release=lambda: None)


def _only_done(work: Callable[[], None]) -> None:
    work()


def _release_cuda() -> None:
    gc.collect()
    torch.cuda.empty_cache()
