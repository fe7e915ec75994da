"""Looks into a model that was brought along, tries it, and tells what it found.

    python -m worker.inspect_model IMPORT.json --out DIR --source PATH --named NAME [--dataset PACKED] --events-fd N

IMPORT.json is a `distillery.spec.imports.ModelImport`. The exit codes stand in `worker.messages`; SIGTERM ends it with
75, as there is nothing to save. A child without torch looks at the file first, so that a hostile one gets no further.
"""

import argparse
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from distillery.errors import DistilleryError, InvalidRequest
from distillery.spec.imports import ModelImport
from engine.cores import usable_cores
from engine.intake import weights
from engine.intake.weights_safetensors import read_header
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_SAVED,
    Delivered,
    Failed,
    Inspected,
    PhaseBegan,
    job_error,
)
from worker.telling import Console, Pipe, Teller
from worker.waiting import wait_patiently

NICENESS = 10
_GIB = 1 << 30
_SPACE_BYTES = 6 * _GIB
_SPACE_BYTES_PER_CORE = 256 << 20
"""Every thread reserves address space for its stack and its allocations."""
_SIZES = 10
"""Copies of the file that are held at once: as it came, as tensors, in a network, and as it is written; with room."""


def main(arguments: list[str] | None = None) -> int:
    """Inspect one model; the exit codes stand in `worker.messages`."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    teller: Teller = Pipe(options.events_fd) if options.events_fd is not None else Console()
    try:
        _inspect(options, teller)
    except DistilleryError as error:
        teller.tell(Failed(error=job_error(error)))
        return EXIT_FAILED
    except MemoryError:
        raised = InvalidRequest(
            "The model needs more memory than a file of its size may take.",
            hint="Bring a smaller one, or weights in fewer bits.",
            pointer="/uploads",
        )
        teller.tell(Failed(error=job_error(raised)))
        return EXIT_FAILED
    return EXIT_FINISHED


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(EXIT_SAVED)


def _inspect(options: argparse.Namespace, teller: Teller) -> None:
    said = _read(options.job)
    teller.tell(PhaseBegan(phase="checking"))
    # Nothing here computes on a GPU, whose address space no bound on memory allows for.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    wait_patiently()
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    kind = weights.look(options.source, preprocessing=said.preprocessing)
    options.out.mkdir(parents=True, exist_ok=True)
    # torch takes seconds to import: whatever can be refused without it is refused by now.
    from engine.data.packed import open_packed
    from engine.data.readers import load
    from engine.inspection import Subject, inspect

    dataset = None
    if said.dataset is not None:
        size = _image_size(said, options.source, kind=kind)
        spec = said.dataset if size is None else said.dataset.model_copy(update={"image_size": size})
        dataset = load(spec, stored=options.dataset)
    _limit(options.source)
    subject = Subject(
        path=options.source,
        named=options.named,
        said=said,
        out=options.out,
        dataset=dataset,
        packed=None if options.dataset is None else open_packed(options.dataset),
    )
    found = inspect(subject, kind=kind)
    teller.tell(
        Delivered(
            name=found.file.name,
            path=str(found.file),
            media_type=found.media_type,
            sha256=found.facts.sha256,
            size_bytes=found.facts.size_bytes,
        )
    )
    teller.tell(Inspected(facts=found.facts))


def _read(path: Path) -> ModelImport:
    try:
        return ModelImport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidRequest(f"{path.name} is no import of a model: {error}") from None


def _image_size(said: ModelImport, source: Path, *, kind: str) -> int | None:
    """The side at which the model reads images; None leaves the data at its own, or at the one that was asked for."""
    if kind in ("npz", "parquet"):
        return None
    if said.preprocessing is not None:
        return said.preprocessing.image_size
    told = read_header(source).metadata.get("image_size", "") if kind == "safetensors" else ""
    return int(told) if told.isdecimal() and 4 <= int(told) <= 1024 else None


def _limit(source: Path) -> None:
    """Bound the address space from here on, by what is taken already and by the size of the file."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    cores = (os.cpu_count() or 1) * _SPACE_BYTES_PER_CORE
    most = taken + _SPACE_BYTES + cores + _SIZES * source.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.inspect_model", description="Inspect one model.")
    parser.add_argument("job", type=Path, metavar="IMPORT", help="the import, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the file of weights")
    parser.add_argument("--source", type=Path, required=True, help="the file that was brought along")
    parser.add_argument("--named", required=True, help="its name on its owner's machine, for messages")
    parser.add_argument("--dataset", type=Path, help="the packed file of the stored data set of the import")
    parser.add_argument("--events-fd", type=int, help="file descriptor for messages to a supervisor")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main())
