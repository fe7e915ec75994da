"""Is this a model that may be loaded? Looked at by content, in a child of its own that has little memory and no torch.

    python -m engine.intake.weights FILE [--preprocessing JSON]

writes one line of JSON: the kind of the file, or the error. The child may write no file, and is ended when it takes too
long; a child that dies is a refusal like any other.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery import sniff
from distillery.errors import DistilleryError, HostileFile, MissingDependency, UnusableWeights
from distillery.spec.preprocessing import Preprocessing
from engine.intake import answers, weights_onnx, weights_safetensors

ACCEPTED = ("safetensors", "onnx", "npz", "parquet")
"""What `distillery.sniff` calls the kinds that are taken."""
_GROWTH_BYTES = 176 << 20
"""Address space that the check may take beside what its libraries take, and beside four times the file."""
_SIZES = 4
_CPU_SECONDS = 4
_CPU_SECONDS_PER_GIB = 20
_WALL_SECONDS = 60
"""On a busy machine; what bounds the work itself is the processor's time."""
_GIB = 1 << 30
_OPEN_FILES = 64
_WHERE = "/uploads"
_ERRORS = {kind.__name__: kind for kind in (HostileFile, UnusableWeights, MissingDependency)}


def look(path: Path, *, preprocessing: Preprocessing | None = None) -> str:
    """The kind of a model file, one of `ACCEPTED`, once a guarded child has found nothing wrong with it.

    Raises:
        HostileFile: reading it would do harm, or the child that looked at it died or took too long.
        UnusableWeights: it is of a kind that is not taken, or damaged.
        MissingDependency: the package that reads it is not installed.
    """
    command = [sys.executable, "-m", "engine.intake.weights", str(path)]
    if preprocessing is not None:
        command += ["--preprocessing", preprocessing.model_dump_json()]
    given = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(  # noqa: S603 - our own program; no shell
            command,
            env=given | quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WALL_SECONDS + _cpu_seconds(path),
        )
    except subprocess.TimeoutExpired:
        raise _hostile("looking at it took too long") from None
    said = told(ended.stdout)
    if said is None:
        raise _hostile("the process that looked at it ran out of time or memory, or crashed")
    if "kind" in said:
        return str(said["kind"])
    kind = _ERRORS.get(str(said["error"]), UnusableWeights)
    raise kind(said["detail"], hint=said["hint"], pointer=said["pointer"])


def told(output: bytes) -> Mapping[str, Any] | None:
    """What a child said, from its output; None where it did not come to it."""
    try:
        said = json.loads(output.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return said if isinstance(said, dict) and ("kind" in said or "error" in said) else None


def _cpu_seconds(path: Path) -> int:
    size = path.stat().st_size if path.is_file() else 0
    return _CPU_SECONDS + size * _CPU_SECONDS_PER_GIB // _GIB


def check(path: Path, *, preprocessing: Preprocessing | None = None) -> str:
    """The same in this very process.

    Raises:
        HostileFile: reading it would do harm.
        UnusableWeights: it is of a kind that is not taken, or damaged.
        MissingDependency: the package that reads it is not installed.
    """
    try:
        kind = sniff.sniff_file(path)
    except OSError as error:
        raise UnusableWeights(f"The file cannot be read: {error.strerror}.", pointer=_WHERE) from None
    if kind == "safetensors":
        weights_safetensors.read_header(path)
    elif kind == "onnx":
        weights_onnx.require_size(path.stat().st_size)
        weights_onnx.check(path.read_bytes(), preprocessing=preprocessing)
    elif kind in ("npz", "parquet"):
        answers.read(path)
    else:
        raise _refused(kind)
    return kind


def _refused(kind: str) -> UnusableWeights:
    hint = sniff.advice(kind) or "Send safetensors, ONNX, or a table of answers as npz or parquet."
    return UnusableWeights(
        f"The file is {sniff.describe(kind)}; taken are safetensors, ONNX, and tables of answers (npz, parquet).",
        hint=hint,
        pointer=_WHERE,
    )


def _hostile(why: str) -> HostileFile:
    return HostileFile(
        f"The file was not read to its end: {why}.",
        hint="It is damaged, or unfolds to far more than its size; write it anew.",
        pointer=_WHERE,
    )


def _limit(path: Path) -> None:
    """From here on: no file is written, no core is dumped, and memory is bounded by the size of the file."""
    size = path.stat().st_size if path.is_file() else 0
    most = _address_space() + _GROWTH_BYTES + _SIZES * size
    for what, bound in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, math.ceil(time.process_time()) + _cpu_seconds(path)),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(what, (bound, bound))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _import_readers() -> None:
    """Libraries take their address space before it is bounded; one that is absent is told when it is needed."""
    for name in ("onnx", "onnx.shape_inference", "pyarrow.parquet"):
        try:
            __import__(name)
        except ImportError:
            continue


def main(arguments: list[str] | None = None) -> int:
    """Look at one file; 0 with its kind, 1 with the error."""
    parser = argparse.ArgumentParser(prog="python -m engine.intake.weights")
    parser.add_argument("file", type=Path)
    parser.add_argument("--preprocessing", type=Preprocessing.model_validate_json)
    options = parser.parse_args(arguments)
    try:
        said = {"kind": _guarded(options.file, options.preprocessing)}
    except DistilleryError as error:
        said = _as_told(error)
    except (MemoryError, RecursionError):
        said = _as_told(_hostile("it unfolds to more than the memory that a file of its size may take"))
    sys.stdout.write(json.dumps(said) + "\n")
    return 0 if "kind" in said else 1


def _as_told(error: DistilleryError) -> dict[str, str]:
    return {"error": type(error).__name__, "detail": error.detail, "hint": error.hint, "pointer": error.pointer}


def _guarded(path: Path, preprocessing: Preprocessing | None) -> str:
    kind = sniff.sniff_file(path) if path.is_file() else "empty"
    if kind in ("onnx", "parquet"):
        _import_readers()
    _limit(path)
    return check(path, preprocessing=preprocessing)


if __name__ == "__main__":
    sys.exit(main())
