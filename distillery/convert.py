"""`distillery models convert`: PyTorch's pickled weights to safetensors, here on the user's own machine.

The work is done by a child, `python -m engine.convert`, so that the client itself never loads torch.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from distillery.errors import MissingDependency, StorageFull, UnusableWeights

ENDING = ".safetensors"
_PROGRAM = "engine.convert"


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: Path
    tensors: int
    left_out: tuple[str, ...]
    """Names of what is no tensor."""
    notes: tuple[str, ...]
    """What was mended on the way."""
    sha256: str
    size_bytes: int


def convert(source: Path, *, out: Path | None = None) -> Converted:
    """Write the weights of a `.pt`, `.pth`, `.th` or `.bin` file beside it, or to `out`, as safetensors.

    No code of the file runs: only tensors and plain containers are unpickled.

    Raises:
        UnusableWeights: it is missing, holds more than weights, or holds none.
        StorageFull: there is no room for the result.
        MissingDependency: torch or safetensors is not installed.
    """
    missing = [name for name in ("torch", "safetensors", "engine") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"Converting weights needs the package '{missing[0]}', which is not installed.",
            hint="Install it with: pip install 'distillery[worker]'",
        )
    target = out or source.with_suffix(ENDING)
    if target.resolve() == source.resolve():
        raise UnusableWeights(f"{source.name} would be overwritten.", hint="Give another file with --out.")
    path = os.pathsep.join(filter(None, sys.path))
    ended = subprocess.run(  # noqa: S603 - our own program; no shell
        [sys.executable, "-m", _PROGRAM, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    try:
        told = json.loads(ended.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (ended.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UnusableWeights(f"{source.name} could not be converted: {last[:300]}") from None
    if "error" in told:
        kind = {StorageFull.code: StorageFull, MissingDependency.code: MissingDependency}.get(
            told["error"], UnusableWeights
        )
        raise kind(told["detail"], hint=told["hint"])
    return Converted(
        target, told["tensors"], tuple(told["left_out"]), tuple(told["notes"]), told["sha256"], told["size_bytes"]
    )
