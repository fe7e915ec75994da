"""Ends of an attempt that another one, run differently or later, may well get past: no memory, no space, diverged."""

import errno

from distillery.errors import StorageFull
from worker.messages import Halted

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "_status_alloc_failed",
)
"""What PyTorch, cuBLAS, cuDNN and C++ say, in lower case; the CPU's allocator raises a plain RuntimeError."""
_MOST_CHARACTERS = 500


class Halt(Exception):
    """This attempt cannot go on; `message` says why and in which run."""

    def __init__(self, message: Halted) -> None:
        super().__init__(message.detail)
        self.message = message


def halt_of(error: Exception, *, run: str = "") -> Halted | None:
    """What to tell of an error that the next attempt may get past; None of any other. `run` is the one it came from."""
    if isinstance(error, Halt):
        return error.message
    if _is_no_memory(error):
        where = f" in the run {run}" if run else ""
        return Halted(reason="out_of_memory", run=run, detail=f"Memory ran out{where}: {_first_line(error)}")
    if isinstance(error, StorageFull):
        return Halted(reason="disk_full", run=run, detail=str(error))
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Halted(reason="disk_full", run=run, detail=f"No space is left to write: {_first_line(error)}")
    return None


def _is_no_memory(error: Exception) -> bool:
    """Without torch, which may not be loaded yet; its OutOfMemoryError is a RuntimeError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    """Allocators say all they know about memory on one long line, and the stack of C++ after it."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
