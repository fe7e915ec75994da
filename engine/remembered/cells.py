"""Rows of numbers in one file that many processes map at once, each row with a sum that tells whether it is whole.

There is no lock for reading and writing: a row that is torn, damaged or of another place has another sum, and is as
good as absent. Writing a row again does no harm, since whoever writes it has computed the same.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD_BYTES = 4
_WIDTH_FACTOR = 0x9E3779B97F4A7C15
"""Odd: rows of other widths may take as many words."""
_ABSENT = 0
"""No row has this sum, so that fresh pages, which are zero, hold nothing."""

Grow = Callable[[Path, int], bool]
"""Makes a file so many bytes long, filled with zeros, and says whether there was room."""


def cell_bytes(width: int) -> int:
    """What a cell of `width` numbers takes in its file."""
    return (-(-2 * width // _WORD_BYTES) + 1) * _WORD_BYTES


class Cells:
    """`planes` of N cells, of which each holds `width` float16 numbers or nothing.

    Args:
        path: the file; made when the first plane is written.
        count: N, cells of a plane.
        width: numbers in a cell.
        grow: called before a plane is written that the file does not hold yet.
    """

    def __init__(self, path: Path, *, count: int, width: int, grow: Grow) -> None:
        self._path, self._count, self._width, self._grow = path, count, width, grow
        self._words = cell_bytes(width) // _WORD_BYTES - 1
        self._plane_bytes = count * cell_bytes(width)
        self._rows: NDArray[np.uint32] = np.empty((0, self._words + 1), dtype=np.uint32)
        self._refused = False
        # Fixed: the sums of one process must mean the same to all others. Odd, so that no bit of a word is lost.
        drawn = np.random.Generator(np.random.PCG64(20150309)).integers(0, 2**63, self._words + 1, dtype=np.uint64)
        self._factors = drawn * np.uint64(2) + np.uint64(1)
        self._of_width = np.uint64(width * _WIDTH_FACTOR % 2**64)
        self.damaged = 0
        """Rows that were found with a wrong sum."""

    def read(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Of each of B cells its numbers [B, width], and whether it holds any; those that do not are zeros."""
        self._reach(int(cells.max(initial=-1)) + 1)
        known = cells < len(self._rows)
        rows = np.zeros((len(cells), self._words + 1), dtype=np.uint32)
        rows[known] = self._rows[cells[known]]
        told, words = rows[:, -1], rows[:, :-1]
        whole = told == self._sums(words, cells)
        self.damaged += int(np.count_nonzero(~whole & (told != _ABSENT)))
        words = np.ascontiguousarray(np.where(whole[:, None], words, 0))
        return words.view(np.float16)[:, : self._width], whole

    def write(self, cells: NDArray[np.int64], values: NDArray[np.float16]) -> bool:
        """Keep [B, width] numbers in B cells; says whether there was room for them."""
        if not self._holds(int(cells.max(initial=-1)) // self._count + 1):
            return False
        rows = np.zeros((len(cells), self._words + 1), dtype=np.uint32)
        rows[:, :-1].view(np.float16)[:, : self._width] = values
        rows[:, -1] = self._sums(rows[:, :-1], cells)
        self._rows[cells] = rows
        return True

    def filled(self, planes: int) -> int:
        """How many cells of the first planes hold a row, right or wrong."""
        self._reach(planes * self._count)
        return int(np.count_nonzero(self._rows[: planes * self._count, -1] != _ABSENT))

    def _sums(self, words: NDArray[np.uint32], cells: NDArray[np.int64]) -> NDArray[np.uint32]:
        """A multilinear hash of each row [B, words], its width and its place: never 0, and the same by chance for one
        in 2^32 others.
        """
        placed = (cells.astype(np.uint64) + np.uint64(1)) * self._factors[-1] + self._of_width
        mixed = (words * self._factors[:-1]).sum(axis=1, dtype=np.uint64) + placed
        sums: NDArray[np.uint32] = np.maximum(mixed >> np.uint64(32), 1).astype(np.uint32)
        return sums

    def _holds(self, planes: int) -> bool:
        """Whether the file holds so many planes, made longer where it must be. Once refused, it is not asked again."""
        if self._reach(planes * self._count):
            return True
        if not self._refused:
            self._refused = not self._grow(self._path, planes * self._plane_bytes)
        return not self._refused and self._reach(planes * self._count)

    def _reach(self, cells: int) -> bool:
        """Whether the file holds so many cells; mapped anew where others have made it longer."""
        if len(self._rows) >= cells:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            whole = os.fstat(descriptor).st_size // self._plane_bytes * self._plane_bytes
            if whole:
                mapping: Any = mmap.mmap(descriptor, whole)
                self._rows = np.frombuffer(mapping, dtype=np.uint32).reshape(-1, self._words + 1)
        finally:
            os.close(descriptor)
        return len(self._rows) >= cells
