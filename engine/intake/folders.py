"""A folder on a disk that the workers see, walked without following a link."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distillery.errors import HostileFile, UnreadableData
from engine.intake import names
from engine.intake.limits import Budget
from engine.intake.members import Container, Member
from engine.intake.streams import Unpacked, buffered

_MEND = "Put the files themselves below the folder, under plain names."


class Folder(Container):
    """The files below `root`, sorted by name.

    Raises:
        HostileFile: one is a link, a device or a pipe, has a misleading name, or there are too many.
        UnreadableData: a folder cannot be read.
    """

    def __init__(self, root: Path, *, budget: Budget) -> None:
        self.root, self._budget, self._count = root, budget, 0
        self.members = tuple(self._walked(root, above=()))

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self._budget.limits.entries:
            raise HostileFile(
                f"The folder holds more than {self._budget.limits.entries:,} files and folders.",
                hint="Split the data set, or pack its samples into one parquet file.",
            )

    def open(self, place: str, *, name: str) -> BinaryIO:
        """The content of the file at `place` below the root."""
        return _opened(self.root / place, name=name, budget=self._budget)

    def _walked(self, folder: Path, *, above: tuple[str, ...]) -> Iterator[Member]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise UnreadableData(f"'{names.shown(folder.name)}' cannot be read: {error.strerror}.") from None
        for entry in entries:
            parts = names.parts("/".join((*above, entry.name)))
            self._count_one()
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from self._walked(folder / entry.name, above=parts)
            elif stat.S_ISREG(status.st_mode):
                yield Member(parts, status.st_size, self, "/".join(parts))
            else:
                raise HostileFile(f"'{'/'.join(parts)}' is a link, a pipe or a device.", hint=_MEND)


class SingleFile(Container):
    """One file by itself, called `named`."""

    def __init__(self, path: Path, *, named: str, budget: Budget) -> None:
        self.path, self._budget = path, budget
        self.members = (Member((named,), path.stat().st_size, self, None),)

    def open(self, place: None, *, name: str) -> BinaryIO:
        """The content."""
        return _opened(self.path, name=name, budget=self._budget)


class Compressed(Container):
    """One file, compressed by itself: its content, unpacked while it is read."""

    def __init__(self, inner: Member, *, how: str, budget: Budget) -> None:
        self._inner, self._how, self._budget = inner, how, budget
        name = inner.parts[-1]
        stem = name.rsplit(".", 1)[0] if name.lower().endswith((".gz", ".xz", ".bz2")) else name
        self.members = (Member((*inner.parts[:-1], stem), inner.size_bytes, self, None),)

    def open(self, place: None, *, name: str) -> BinaryIO:
        """The content."""
        return buffered(
            Unpacked(
                self._inner.open(),
                how=self._how,
                packed_bytes=self._inner.size_bytes,
                name=name,
                budget=self._budget,
            )
        )


def local_path(member: Member) -> Path | None:
    """Where a file lies that is no archive's member."""
    if isinstance(member.container, SingleFile):
        return member.container.path
    return member.container.root / member.place if isinstance(member.container, Folder) else None


def _opened(path: Path, *, name: str, budget: Budget) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
    except OSError as error:
        raise UnreadableData(f"'{names.shown(name)}' cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise HostileFile(f"'{names.shown(name)}' is a link, a pipe or a device.", hint=_MEND)
    file = os.fdopen(descriptor, "rb")
    return buffered(Unpacked(file, how="stored", packed_bytes=status.st_size, name=name, budget=budget))
