"""Where answers lie on a machine, by what they are answers to, and within which bound.

Below the root each entry has a folder that is named after the hash of its key, with the key in plain JSON and a file
for each column. Whoever uses an entry holds its lock; when room is needed, the entry that nobody holds and that was
used longest ago goes first, as a whole.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distillery.errors import InvalidRequest

LIMIT_BYTES = 10 << 30
_KEY, _LOCKS, _GROWING = "key.json", "locks", "growing"


class Entry:
    """The answers to one key, held as long as anybody in this process keeps this object, or until it is closed."""

    def __init__(self, shelf: "Shelf", name: str, lock: int) -> None:
        self._shelf = shelf
        self._let_go = weakref.finalize(self, os.close, lock)
        self.folder = shelf.root / name

    def grow(self, path: Path, size: int) -> bool:
        """Make a file of this entry `size` bytes long, or longer by others; says whether there was room."""
        return self._shelf.grow(path, size)

    def close(self) -> None:
        """Let the entry be removed when room is needed."""
        self._let_go()


@dataclass(frozen=True)
class Held:
    """What an entry takes."""

    folder: Path
    size: int
    """Bytes of its files."""
    used: float
    """When it was last opened, in seconds since 1970."""
    key: Mapping[str, Any]


class Shelf:
    """All entries below `root`, which together take at most `limit` bytes."""

    def __init__(self, root: Path, *, limit: int = LIMIT_BYTES) -> None:
        self.root, self.limit = root, limit

    @classmethod
    def of_this_machine(cls) -> "Shelf":
        """`$DISTILLERY_ANSWERS` or a folder in the user's cache, bounded by `$DISTILLERY_ANSWERS_BYTES` or 10 GiB.

        Raises:
            InvalidRequest: the bound is no number of bytes.
        """
        told = os.environ.get("DISTILLERY_ANSWERS_BYTES") or str(LIMIT_BYTES)
        if not told.isascii() or not told.isdigit():
            raise InvalidRequest(
                f"DISTILLERY_ANSWERS_BYTES is '{told}', which is no number of bytes.",
                hint="Give a whole number such as 10737418240 for 10 GiB, or 0 to keep no answers.",
            )
        given = os.environ.get("DISTILLERY_ANSWERS")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(Path(given) if given else cache / "distillery" / "answers", limit=int(told))

    def open(self, key: Mapping[str, Any]) -> Entry:
        """The entry of a key, made where there is none, and held."""
        written = json.dumps(key, sort_keys=True, indent=1)
        name = hashlib.sha256(written.encode()).hexdigest()
        with self._opened(self.root / _LOCKS / name) as file:
            lock = os.dup(file.fileno())
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits only while somebody removes this very entry
        folder = self.root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        put(folder / _KEY, written)
        os.utime(folder)
        return Entry(self, name, lock)

    def grow(self, path: Path, size: int) -> bool:
        """Make a file `size` bytes long, its new bytes zero and really there, within the bound and the disk's room."""
        with self._opened(self.root / _LOCKS / _GROWING) as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with path.open("ab") as file:
                has = os.fstat(file.fileno()).st_size
                if has >= size:
                    return True
                if not self._made_room(size - has):
                    return False
                try:
                    # A mapped page that has no room on the disk would end the process when it is written.
                    os.posix_fallocate(file.fileno(), has, size - has)
                except OSError:
                    os.ftruncate(file.fileno(), has)
                    return False
        return True

    def clear(self) -> int:
        """Remove every entry that nobody holds; gives the bytes that this freed."""
        return sum(each.size for each in self.entries() if self._removed(each.folder))

    def entries(self) -> list[Held]:
        """All of them, the one that was used longest ago first."""
        found = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # somebody else makes or removes it at this moment
                if folder.name != _LOCKS:
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    found.append(Held(folder, size, folder.stat().st_mtime, _key_in(folder)))
        return sorted(found, key=lambda each: each.used)

    def _made_room(self, size: int) -> bool:
        if size > self.limit:
            return False
        entries = self.entries()
        excess = sum(each.size for each in entries) + size - self.limit
        for each in entries:
            if excess <= 0:
                break
            if self._removed(each.folder):
                excess -= each.size
        return excess <= 0

    def _removed(self, folder: Path) -> bool:
        with self._opened(self.root / _LOCKS / folder.name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            shutil.rmtree(folder)
            return True

    def _opened(self, path: Path) -> IO[bytes]:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("ab")


def _key_in(folder: Path) -> Mapping[str, Any]:
    """For people to read; nothing where it is damaged, since the folder's name says the same."""
    try:
        key = json.loads((folder / _KEY).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return key if isinstance(key, dict) else {}


def put(path: Path, text: str) -> None:
    """Write a file that nobody ever sees in part."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
