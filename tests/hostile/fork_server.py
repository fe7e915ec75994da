"""Reads files as an import would, each in a forked child of this process, which has everything loaded already.

    python -m tests.hostile.fork_server WORKPLACE [MODULE ...]

takes a line of JSON for each on stdin ({"file": ..., "named": ..., "spec": {...}}) and answers with one on stdout: how
it ended, with which error, how long it took and how much memory it and its decoders had at most. What a child leaves in
its folder or beside it is told as well. The modules are loaded before: pyarrow makes every fork twice as dear.
"""

import gc
import importlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path

import numpy.ma  # NumPy loads these two when they are used
import numpy.random  # noqa: F401

from distillery.errors import DistilleryError
from distillery.spec.imports import DatasetImport
from engine.data.packed import open_packed
from engine.intake import previews, reading, table_images  # noqa: F401 - loaded before the fork
from engine.intake.sources import Given
from worker.ingest import limit_itself

_SECONDS = 60
PACKED, PREVIEW = reading.PACKED, previews.SHEET


def main(workplace: Path) -> None:
    """Serve until stdin ends."""
    os.chdir(_emptied(workplace / "here"))
    gc.freeze()
    for line in sys.stdin:
        task = json.loads(line)
        out = _emptied(workplace / "out")
        reading_end, writing_end = os.pipe()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reading_end)
            _read(task, out=out, answer_to=writing_end)
        os.close(writing_end)
        with os.fdopen(reading_end, "rb") as pipe:
            answer = pipe.read()
        _, status, usage = os.wait4(child, 0)
        told = json.loads(answer) if answer else {"ended": f"died, status {status}"}
        told |= {
            "wall_seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_bytes": max(usage.ru_maxrss, told.pop("children_kib", 0)) << 10,
            "left": sorted(str(path.relative_to(workplace)) for path in workplace.rglob("*") if path.is_file()),
        }
        print(json.dumps(told), flush=True)


def _read(task: dict[str, object], *, out: Path, answer_to: int) -> None:
    """The child's whole life."""
    told: dict[str, object] = {}
    try:
        limit_itself()
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        spec = DatasetImport.model_validate({"name": "x", "path": "x", **task.get("spec", {})})  # type: ignore[dict-item]
        given = [Given(Path(str(task["file"])), str(task["named"]))]
        facts = reading.read(spec, given=given, out=out)
        if task.get("previewed", True):
            packed = open_packed(out / PACKED)
            json.dumps(previews.facts(packed))
            previews.draw(packed, out / PREVIEW)
        told = {"ended": "read", "broken": facts.broken_count, "splits": facts.splits}
    except DistilleryError as error:
        told = {"ended": type(error).__name__, "detail": error.detail, "hint": error.hint}
    except BaseException as error:
        told = {"ended": f"crashed: {type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    told["children_kib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    os.write(answer_to, json.dumps(told).encode())
    os._exit(0)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    main(Path(sys.argv[1]))
