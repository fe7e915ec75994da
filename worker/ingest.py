"""The reader of data sets that are brought along: files in, one packed file and its previews out.

    python -m worker.ingest IMPORT.json --out DIR (--source PATH --named NAME)+

It trusts nothing that it reads: archives are never extracted, images are decoded in guarded children, and it may itself
neither write large files elsewhere nor take all memory. Under a supervisor it is also given a pipe for its messages.
SIGTERM: it leaves with exit code 75 and keeps nothing.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from distillery.errors import DistilleryError
from distillery.spec.imports import DatasetImport
from distillery.views import DatasetFacts, PhaseName, Progress
from worker.halts import halt_of
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_HALTED,
    EXIT_SAVED,
    Delivered,
    Failed,
    Ingested,
    PhaseBegan,
    Progressed,
    job_error,
)
from worker.telling import Console, Pipe, Teller

NICENESS = 10
_MOST_DATA_BYTES = 3 << 30
"""Memory of its own; the packed file, which is mapped, does not count."""
_LARGEST_FILE_BYTES = 64 << 30
_SECONDS_BETWEEN_PROGRESS = 1.0
_HASHED_AT_ONCE = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Read one data set; the exit codes stand in `worker.messages`."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    faulthandler.enable()
    teller: Teller = Pipe(options.events_fd) if options.events_fd is not None else Console()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        facts = _ingest(options, teller=teller)
        teller.tell(Ingested(facts=facts))
        return EXIT_FINISHED
    except Exception as error:
        if halted := halt_of(error):
            traceback.print_exc()
            teller.tell(halted)
            return EXIT_HALTED
        if not isinstance(error, DistilleryError):
            raise
        teller.tell(Failed(error=job_error(error)))
        return EXIT_FAILED


def limit_itself() -> None:
    """Bound this process's memory and files, for good; a file that grows too large is told as a full disk."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, _MOST_DATA_BYTES),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE_BYTES),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def _ingest(options: argparse.Namespace, *, teller: Teller) -> DatasetFacts:
    spec = DatasetImport.model_validate_json(options.spec.read_bytes())
    # OpenBLAS would start threads, which a fork does not keep: NumPy reads this when it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from engine.data.packed import open_packed
    from engine.intake import previews, reading
    from engine.intake.sources import Given

    given = [Given(path, named) for path, named in zip(options.source, options.named, strict=True)]
    observer = reading.Observer(phase=lambda name: teller.tell(PhaseBegan(phase=name)), progress=_once_a_second(teller))
    facts = reading.read(spec, given=given, out=options.out, observer=observer)
    teller.tell(PhaseBegan(phase="checking"))
    packed = open_packed(options.out / reading.PACKED)
    (options.out / previews.FACTS).write_text(json.dumps(previews.facts(packed), ensure_ascii=False), "utf-8")
    previews.draw(packed, options.out / previews.SHEET)
    _deliver(options.out / reading.PACKED, "application/octet-stream", teller=teller, sha256=facts.sha256)
    _deliver(options.out / previews.FACTS, "application/json", teller=teller)
    _deliver(options.out / previews.SHEET, "image/png", teller=teller)
    return facts


def _once_a_second(teller: Teller) -> Callable[[PhaseName, int, int], None]:
    last = time.monotonic()

    def tell(phase: PhaseName, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_PROGRESS:
            last = now
            teller.tell(Progressed(step=done, progress=Progress(phase=phase, step=done, total_steps=total)))

    return tell


def _deliver(path: Path, media_type: str, *, teller: Teller, sha256: str | None = None) -> None:
    """Tell of a file after it is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.sha256()
        while sha256 is None and (piece := file.read(_HASHED_AT_ONCE)):
            digest.update(piece)
    teller.tell(
        Delivered(
            name=path.name,
            path=str(path),
            media_type=media_type,
            sha256=sha256 or digest.hexdigest(),
            size_bytes=path.stat().st_size,
        )
    )


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_SAVED)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m worker.ingest", description="Read one data set into a packed file."
    )
    parser.add_argument("spec", type=Path, metavar="IMPORT", help="the import, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the packed file and its previews")
    parser.add_argument("--source", type=Path, action="append", required=True, help="a whole file, or a folder")
    parser.add_argument("--named", action="append", required=True, help="its name on the sender's machine, to be shown")
    parser.add_argument("--events-fd", type=int, help="file descriptor for messages to a supervisor")
    options = parser.parse_args(arguments)
    if len(options.source) != len(options.named):
        parser.error("Each --source needs a --named.")
    return options


if __name__ == "__main__":
    os.nice(NICENESS)
    limit_itself()
    sys.exit(main())
