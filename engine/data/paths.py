"""Which files a job may read: paths are resolved, and kept below the roots that the operator allows."""

import os
from pathlib import Path

from distillery.errors import UnreadableData

ROOTS_VARIABLE = "DISTILLERY_DATA_ROOTS"
_SHOWN = 12
_SHOWN_CHARACTERS = 200


def require_allowed(path: str | Path) -> None:
    """Refuse a path outside the operator's folders; links are followed first.

    Raises:
        UnreadableData: the path is malformed, or lies outside `$DISTILLERY_DATA_ROOTS` (folders joined with `:`)
            when that is set.
    """
    found = _resolved(path)
    roots = [root for root in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if root]
    if roots and not any(found.is_relative_to(_resolved(root)) for root in roots):
        raise UnreadableData(
            f"'{path}' lies outside the folders that this worker may read data from.",
            hint=f"Move the data below one of them, or ask the operator to add its folder to ${ROOTS_VARIABLE}.",
        )


def existing_folder(path: str | Path) -> Path:
    """The absolute path of a folder, with links followed.

    Raises:
        UnreadableData: nothing is there, or something that is not a folder.
    """
    folder = _resolved(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UnreadableData(f"'{path}': expected a folder, found {found}.", hint=_AS_THE_WORKER_SEES_IT)
    return folder


def existing_file(path: str | Path) -> Path:
    """The absolute path of a regular file, with links followed.

    Raises:
        UnreadableData: nothing is there, or something that is not a regular file.
    """
    file = _resolved(path)
    if not file.is_file():
        found = "a folder" if file.is_dir() else "something else" if file.exists() else "nothing"
        raise UnreadableData(f"'{path}': expected a file, found {found}.", hint=_AS_THE_WORKER_SEES_IT)
    return file


def entries(folder: Path) -> list[Path]:
    """What lies in `folder`, hidden names left out, in the order of the names: the same on every machine.

    Raises:
        UnreadableData: the folder may not be listed.
    """
    try:
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UnreadableData(
            f"'{folder}' cannot be listed: {error.strerror}.", hint="Let the worker's user read it."
        ) from None


def listing(folder: Path) -> str:
    """The names in `folder` for an error message; folders end in a slash."""
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries(folder)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


_AS_THE_WORKER_SEES_IT = "Give the path as the worker sees it; in a container that is the path inside of it."


def _resolved(path: str | Path) -> Path:
    try:
        found = Path(path).resolve()
        found.exists()  # raises where the system refuses the path itself
    except (OSError, RuntimeError, ValueError) as error:  # too long, not permitted, a loop of links, a null byte
        told = error.strerror if isinstance(error, OSError) else error
        raise UnreadableData(f"{str(path)[:_SHOWN_CHARACTERS]!r} is not a usable path: {told}.") from None
    return found
