"""The files that one import is made of: archives, folders and single files, opened without believing their names."""

import contextlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from distillery.errors import HostileFile, UnreadableData
from distillery.sniff import (
    ARCHIVES,
    HEAD_BYTES,
    MODEL_PROGRAMS,
    PICKLED,
    PROGRAMS,
    advice,
    describe,
    sniff,
    sniff_file,
)
from engine.intake import names
from engine.intake.folders import Compressed, Folder, SingleFile, local_path
from engine.intake.limits import Budget
from engine.intake.members import Member, exactly
from engine.intake.streams import COMPRESSIONS, Unpacked, buffered
from engine.intake.tars import TarArchive
from engine.intake.zips import ZipArchive

REFUSED = PICKLED | MODEL_PROGRAMS | PROGRAMS
"""Kinds that no data set has."""
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
"""Names of folders, files and values that stand for a split; in the order in which samples are packed."""
_SPLIT_OF = {name: split for split, aliases in SPLIT_NAMES.items() for name in aliases}


class Scratch(contextlib.ExitStack):
    """The files that one import holds open, and a folder for those without a name; closes them when it is left."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def open(self, path: Path) -> BinaryIO:
        """A file to read from."""
        return self.enter_context(path.open("rb"))

    def spooled(self, head: bytes, rest: BinaryIO) -> tuple[BinaryIO, int]:
        """What was read already and the rest in a file without a name, and its size."""
        spool = self.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115 - entered, not opened
        size = spool.write(head)
        while piece := rest.read(1 << 20):
            size += spool.write(piece)
        spool.flush()
        spool.seek(0)
        return spool, size


@dataclass(frozen=True)
class Given:
    """A whole file or a folder, and what its sender calls it, which is shown and never used as a path."""

    path: Path
    named: str


@dataclass(frozen=True)
class Source:
    """What one given file or folder holds, without what systems leave behind."""

    named: str
    members: tuple[Member, ...]
    clutter: int
    """How many files were left out as such."""
    single: bool
    """Whether it is one file by itself, not an archive or a folder."""


def packed_bytes(given: Sequence[Given]) -> int:
    """The length of all that was given, as it lies on the disk."""
    total = 0
    for each in given:
        files = each.path.rglob("*") if each.path.is_dir() else [each.path]
        with contextlib.suppress(OSError):  # told when it is opened
            total += sum(file.lstat().st_size for file in files)
    return total


def opened(given: Given, *, budget: Budget, scratch: Scratch) -> list[Source]:
    """The members of what was given: one source, or of a folder with archives each of them.

    Args:
        scratch: keeps the files open that the members are read from.

    Raises:
        HostileFile: it is not safe to read.
        UnreadableData: it is missing, damaged, or of a kind that no data set has.
    """
    named = names.shown(given.named.replace("/", "_")) or "the file"
    try:
        if given.path.is_dir():
            return _of_folder(_source(named, Folder(given.path, budget=budget).members), budget=budget, scratch=scratch)
        kind = sniff_file(given.path)
        return [_of_file(given.path, named=named, kind=kind, budget=budget, scratch=scratch)]
    except FileNotFoundError:
        raise UnreadableData(f"'{named}' does not exist where the worker looks for it.") from None
    except UnreadableData as error:
        error.detail = error.detail if f"'{named}" in error.detail else f"'{named}': {error.detail}"
        raise


def split_of(name: str) -> str | None:
    """The split that a folder, a file without its ending or a value of a column is named after."""
    return _SPLIT_OF.get(name.strip().lower())


def split_within(file_name: str) -> str | None:
    """The split that a word of a file's name stands for, as in `cifar10_train.zip` or `test-00000.parquet`."""
    words = re.split(r"[^a-z]+", file_name.lower())
    found = {split for word in words if (split := _SPLIT_OF.get(word))}
    return found.pop() if len(found) == 1 else None


def refuse(kind: str, *, name: str) -> NoReturn:
    """Say that a file of this kind is no data set.

    Raises:
        HostileFile: it is a program, or an archive within one.
        UnreadableData: it is anything else.
    """
    detail = f"'{names.shown(name)}' is {describe(kind)}"
    if kind in ARCHIVES:
        raise HostileFile(f"{detail} within another.", hint="Unpack it and pack its files themselves.")
    error = HostileFile if kind in PROGRAMS else UnreadableData
    raise error(f"{detail}; no data set is read from that.", hint=advice(kind) or _FORMATS)


_FORMATS = "Data sets are image folders (also as zip or tar), idx, npz, parquet, csv, tsv and jsonl files."


def _of_folder(folder: Source, *, budget: Budget, scratch: Scratch) -> list[Source]:
    """The folder itself, or the archives in it where they lie in no folder below and nothing else needs reading."""
    kinds = {}
    for member in folder.members:
        path = local_path(member)
        if path is None or len(member.parts) > 1:
            return [folder]
        kinds[member] = (path, sniff_file(path))
    archives = {member: each for member, each in kinds.items() if each[1] in ("zip", "tar")}
    if (
        any(kind not in ("zip", "tar", "csv", "text", "json", "html", "pdf") for _, kind in kinds.values())
        or not archives
    ):
        return [folder]
    return [
        _of_file(path, named=member.parts[-1], kind=kind, budget=budget, scratch=scratch)
        for member, (path, kind) in archives.items()
    ]


def _of_file(path: Path, *, named: str, kind: str, budget: Budget, scratch: Scratch) -> Source:
    if kind in REFUSED:
        refuse(kind, name=named)
    if kind == "polyglot":
        raise HostileFile(f"'{named}' is {describe(kind)}.", hint=advice(kind))
    size = path.stat().st_size
    if kind == "zip":
        return _source(named, ZipArchive(scratch.open(path), size=size, budget=budget).members)
    if kind == "tar":
        return _source(named, _tar(scratch.open(path), size=size, budget=budget, counted=False))
    single = SingleFile(path, named=named, budget=budget)
    if kind in COMPRESSIONS:
        return _of_compressed(single.members[0], how=kind, budget=budget, scratch=scratch)
    return Source(named, single.members, 0, single=True)


def _of_compressed(member: Member, *, how: str, budget: Budget, scratch: Scratch) -> Source:
    with member.open() as packed:
        stream = Unpacked(
            packed, how=how, packed_bytes=member.size_bytes, name=member.name, budget=budget, own_member=False
        )
        content = buffered(stream)
        head = exactly(content, HEAD_BYTES)
        inside = sniff(head)
        if inside in REFUSED or inside in ARCHIVES - {"tar"}:
            refuse(inside, name=member.name)
        if inside == "tar":
            spool, size = scratch.spooled(head, content)
            return _source(member.name, _tar(spool, size=size, budget=budget, counted=True))
    return Source(member.name, Compressed(member, how=how, budget=budget).members, 0, single=True)


def unwrapped(member: Member, *, budget: Budget) -> tuple[Member, str]:
    """A member and its kind; of one that is compressed by itself, its content and the kind of that.

    Raises:
        HostileFile: it is an archive within another.
        UnreadableData: it is damaged.
    """
    path = local_path(member)
    kind = sniff_file(path) if path is not None else member.kind()
    if kind in COMPRESSIONS and not isinstance(member.container, Compressed):
        member = Compressed(member, how=kind, budget=budget).members[0]
        path, kind = None, member.kind()
    if kind in ARCHIVES and not (kind == "npz" and path is not None):
        refuse(kind, name=member.name)
    return member, kind


def seekable(member: Member, *, scratch: Scratch) -> tuple[BinaryIO, int]:
    """The member's content as a file for readers that jump about, and its size; of an archive's member a copy that
    has no name."""
    if path := local_path(member):
        return scratch.open(path), path.stat().st_size
    with member.open() as stream:
        return scratch.spooled(b"", stream)


def _tar(file: BinaryIO, *, size: int, budget: Budget, counted: bool) -> tuple[Member, ...]:
    archive = TarArchive(file, size=size, budget=None if counted else budget, most_entries=budget.limits.entries)
    return archive.members


def _source(named: str, members: tuple[Member, ...]) -> Source:
    kept = tuple(member for member in members if not names.is_clutter(member.parts))
    if not kept:
        raise UnreadableData(f"'{named}' holds no files.", hint=_FORMATS)
    return Source(named, tuple(sorted(kept, key=lambda member: member.parts)), len(members) - len(kept), single=False)
