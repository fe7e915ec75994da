"""Look at many model files, each in a child as `engine.intake.weights` limits it: python -m tests.hostile.look_at_all

Reads paths, one a line, and writes a line of JSON for each. The libraries are loaded once, before the children fork, so
that hundreds of files take no longer than a few.
"""

import json
import os
import sys
import time
from typing import Any

import onnx.shape_inference  # noqa: F401 - loaded here, so that no child loads it
import pyarrow.parquet  # noqa: F401 - likewise

from engine.intake import weights

_MOST_BYTES = 1 << 16
_CRASHED = 99


def look(path: str) -> dict[str, Any]:
    """What the check said of a file (None where it died without a word), how it ended, and what it took."""
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = _CRASHED
        try:
            os.dup2(writing, 1)
            code = weights.main([path])
            sys.stdout.flush()
        finally:
            os._exit(code)  # whatever was raised, the child never goes on as its parent
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read(_MOST_BYTES)
    _, status, usage = os.wait4(child, 0)
    return {
        "path": path,
        "said": weights.told(said),
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "bytes": usage.ru_maxrss * 1024,
        "torch": "torch" in sys.modules,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(look(line.rstrip("\n"))), flush=True)
