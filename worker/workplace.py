"""Where an attempt keeps its files: one folder for each, gone when it ends, and swept when its worker was killed."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"
_OURS = re.compile(r"(job|bmk|dts|mdl|pfl|inf)_[0-9a-z]{26}-a[0-9]+")
"""Names of attempts' folders: a sweep touches nothing else, wherever the work folder was put."""


def root() -> Path:
    """`$DISTILLERY_WORK_DIR`, or a folder of this user's below the temporary one."""
    given = os.environ.get("DISTILLERY_WORK_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"distillery-work-{os.getuid()}"


@contextlib.contextmanager
def folder(place: Path, *, claim_id: str, attempt: int) -> Iterator[Path]:
    """An empty folder of the attempt's own until the block ends. Those of dead workers are removed on the way in."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = place / f"{claim_id}-a{attempt}"
    with contextlib.ExitStack() as held:
        with _locked(place / _LOCK):  # a folder is made and locked in one go, so no sweep finds it unlocked
            _sweep(place)
            mine.mkdir()
            held.enter_context(_locked(mine / _LOCK))
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)


def _sweep(place: Path) -> None:
    for each in place.iterdir():
        if not _OURS.fullmatch(each.name):
            continue
        # Its owner lives, or is removing it at this moment.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(each / _LOCK, wait=False):
            shutil.rmtree(each, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """The kernel lets go of this lock when the process dies, however it dies."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
