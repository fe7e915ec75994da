"""Checkpoint files that are whole or absent: temporary file, fsync, rename, sha256.

What a killed writer left half-written is swept away by the next one that writes into the same folder.
"""

import errno
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.errors import CorruptFile, NotFound, StorageFull

_PARTIAL = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HEADROOM = 2
"""Free space asked for before a save, in sizes of the state: a full disk hurts more than this job."""


class HashingWriter:
    """Writes to a file descriptor, hashes what passes, and remembers why a write failed, which torch would hide."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all of `data`.

        Raises:
            OSError: the file cannot grow.
        """
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self._descriptor, rest)
                self._digest.update(rest[:written])
                self.size_bytes += written
                rest = rest[written:]
        except OSError as error:
            self.failure = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back; torch calls this at the end."""

    @property
    def sha256(self) -> str:
        """Hash of everything written so far."""
        return self._digest.hexdigest()


def save(state: dict[str, Any], path: Path) -> tuple[str, int]:
    """Write `state` (tensors and plain data) to `path`; gives its sha256 and its size in bytes.

    Raises:
        StorageFull: there is no room. What lay at `path` before is untouched, and nothing half-written is left.
    """
    with written_whole(path, expected_bytes=_tensor_bytes(state)) as writer:
        torch.save(state, writer)  # type: ignore[arg-type]  # torch only writes, front to back: no seek, no read
    return writer.sha256, writer.size_bytes


@contextmanager
def written_whole(path: Path, *, expected_bytes: int = 0) -> Iterator[HashingWriter]:
    """A writer whose file appears at `path`, complete and on disk, when the block ends without an error.

    Raises:
        StorageFull: there is no room. What lay at `path` before is untouched, and nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob(f".*{_PARTIAL}"):
        if not _has_a_writer(partial):
            partial.unlink(missing_ok=True)
    _check_space(path, needed=expected_bytes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        with temporary.open("wb", buffering=0) as file:
            writer = HashingWriter(file.fileno())
            with _failures_explained(writer, path):
                yield writer
                os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, *, sha256: str | None) -> dict[str, Any]:
    """Read a state onto the CPU, without running any code from the file.

    With `sha256` the bytes must have that hash; without, the checksum of every record in the file must hold.

    Raises:
        NotFound: no such file.
        CorruptFile: the bytes are not those that were saved.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"There is no checkpoint {path.name} in {path.parent}.") from None
    with file:
        _check_bytes(file, path, sha256=sha256)
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise nearly anything on a foreign file
            raise _damaged(path, f"torch cannot read it ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise _damaged(path, f"it holds a {type(state).__name__} and not a state")
    return state


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _failures_explained(writer: HashingWriter, path: Path) -> Iterator[None]:
    """Turn a failure for want of space into StorageFull, be it plain or wrapped by torch in a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = writer.failure or error
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            raise _full(path, f"it broke off after {writer.size_bytes:,} bytes") from error
        raise cause from (None if cause is error else error)


def _has_a_writer(partial: Path) -> bool:
    """Whether the process whose number the temporary file bears is alive."""
    number = partial.name.removesuffix(_PARTIAL).rpartition(".")[2]
    try:
        os.kill(int(number), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _check_space(path: Path, *, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < _HEADROOM * needed:
        raise _full(path, f"it needs {needed:,} bytes, {_HEADROOM} times that should be free, and {free:,} are")


def _full(path: Path, detail: str) -> StorageFull:
    return StorageFull(
        f"No space is left to write {path.name} in {path.parent}: {detail}.",
        hint="Free some space, keep fewer checkpoints (training.keep), or point --out and the artifacts elsewhere.",
    )


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(_tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_tensor_bytes(value) for value in state if isinstance(value, (Tensor, dict, list, tuple)))
    return 0


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_bytes(file: BufferedReader, path: Path, *, sha256: str | None) -> None:
    if sha256 is not None:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise _damaged(path, f"its sha256 is {found}, recorded is {sha256}")
        return
    try:
        with zipfile.ZipFile(file) as records:  # torch's reader skips the checksums
            broken = records.testzip()
    except Exception as error:  # a damaged directory of records makes zipfile raise nearly anything
        raise _damaged(path, "it is cut short or no checkpoint at all") from error
    if broken is not None:
        raise _damaged(path, f"the checksum of its record {broken} does not hold")


def _damaged(path: Path, detail: str) -> CorruptFile:
    return CorruptFile(
        f"The checkpoint {path.name} in {path.parent} is damaged: {detail}.",
        hint="Go on from an earlier checkpoint.",
    )
