"""Local files that appear whole or not at all, and stay when the machine dies."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PART_PREFIX = ".part-"
"""Begins the name of a file that is being written. One that is left was its writer's last."""


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place at `path` when the block ends well, and is gone when it does not.

    Raises:
        OSError: it cannot be written; what was at `path` stays.
    """
    part = path.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    make_durable(path.parent, root=path.parent)


def make_durable(folder: Path, *, root: Path) -> None:
    """Force the names in a folder, and in those above it up to `root`, onto the disk: a row is about to point there.

    Raises:
        OSError: the disk refuses.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder == root:
            return
        folder = folder.parent
