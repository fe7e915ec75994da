"""Images of a split that do not lie in one tensor: mapped from a file, or joined of several parts.

They are read as a tensor is, by rows, and give tensors; what is not asked for is never loaded.
"""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Gathered(ABC):
    """N images that are read when they are asked for, each time anew."""

    shape: torch.Size
    """[N, C, H, W]."""
    dtype = torch.uint8

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the tensors lie that it gives."""
        ...

    @abstractmethod
    def to(self, device: torch.device | str) -> "Gathered":
        """The same images, as near to `device` as they can be."""
        ...

    @abstractmethod
    def expect(self, rows: Tensor) -> None:
        """Say that `rows` (int64 [n], on the CPU) will be read soon. Nothing waits for it."""
        ...

    @abstractmethod
    def _read(self, rows: Tensor) -> Tensor:
        """uint8 [n, C, H, W] of `rows`, int64 [n] on the CPU, each from 0 to N - 1."""
        ...

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """uint8 [n, C, H, W] of `rows`, int64 [n] on any device; `dim` is 0.

        Raises:
            IndexError: there is no such row.
        """
        if dim != 0:
            raise AssertionError("Images are told apart along their first dimension only.")
        rows = rows.cpu()
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"There are {len(self)} images; asked for rows {int(rows.min())} to {int(rows.max())}.")
        return self._read(rows)

    def __getitem__(self, key: int | slice | Tensor) -> Tensor:
        """As of a tensor: an image [C, H, W], those of a slice, or of int64 rows or a bool mask [N]."""
        if isinstance(key, slice):
            rows = torch.arange(len(self))[key]
            self.expect(rows)  # so that they load side by side, not page after page
            return self._read(rows)
        if isinstance(key, int):
            return self.index_select(0, torch.tensor([key + len(self) if key < 0 else key]))[0]
        rows = torch.nonzero(key).flatten() if key.dtype == torch.bool else torch.where(key < 0, key + len(self), key)
        return self.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *self.shape[1:])


Images = Tensor | Gathered
"""uint8 [N, C, H, W] in either form. Of both may be asked: len, shape, device, dtype, index_select, [rows], to."""


class MappedImages(Gathered):
    """Rows of an array in a mapped file: the kernel loads what is read and drops it again when memory is short.

    They stay on the host whatever the device: their batches move. A file that is cut short while it is mapped ends the
    process with SIGBUS; files that are written once are not.
    """

    def __init__(self, pixels: NDArray[np.uint8], rows: Tensor, *, mapping: mmap.mmap) -> None:
        """`pixels`, uint8 [M, C, H, W], is a view of `mapping`; `rows`, int64 [N], are those of the split."""
        self._pixels, self._rows, self._mapping = pixels, rows.numpy().astype(np.int64, copy=False), mapping
        self.shape = torch.Size((len(rows), *pixels.shape[1:]))
        self._image_bytes = int(np.prod(pixels.shape[1:]))
        self._begins = pixels.ctypes.data - np.frombuffer(mapping, dtype=np.uint8).ctypes.data
        # Shuffled rows lie far apart: what the kernel reads ahead of each would be thrown away. `expect` says more.
        mapping.madvise(mmap.MADV_RANDOM)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> "MappedImages":
        """Itself: it stays in its file."""
        return self

    def chosen(self, rows: Tensor) -> "MappedImages":
        """Only those of `rows`, int64 [n] on the CPU."""
        return MappedImages(self._pixels, torch.from_numpy(self._rows[rows.numpy()]), mapping=self._mapping)

    def expect(self, rows: Tensor) -> None:
        """Have the kernel load the pages of `rows` while something else is computed."""
        for begin, end in self._runs(np.sort(self._rows[rows.numpy()])):
            self._mapping.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _runs(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """The bytes of ascending rows, in whole pages; rows that touch are one run."""
        begins = (self._begins + rows * self._image_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        ends = self._begins + (rows + 1) * self._image_bytes
        firsts = np.flatnonzero(np.r_[True, begins[1:] > ends[:-1]]) if len(rows) else np.empty(0, dtype=np.int64)
        lasts = np.r_[firsts[1:] - 1, len(rows) - 1] if len(rows) else firsts
        return list(zip(begins[firsts].tolist(), ends[lasts].tolist(), strict=True))

    def _read(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.take(self._pixels, self._rows[rows.numpy()], axis=0))


class JoinedImages(Gathered):
    """Several parts one after the other, as `torch.cat` would have them, without a copy of any."""

    def __init__(self, parts: Sequence[Images]) -> None:
        """`parts` are images of one shape [C, H, W]."""
        self._parts = tuple(parts)
        counts = [len(part) for part in parts]
        self._firsts = [sum(counts[:place]) for place in range(len(counts))]
        self.shape = torch.Size((sum(counts), *parts[0].shape[1:]))

    @property
    def device(self) -> torch.device:
        """That of the parts; of several, the one that is not the CPU."""
        devices = [part.device for part in self._parts]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def to(self, device: torch.device | str) -> "JoinedImages":
        """The same with every part on `device` that can go there."""
        return JoinedImages([part.to(device) for part in self._parts])

    def expect(self, rows: Tensor) -> None:
        """Pass it on to the parts that read from files."""
        for part, _, inside in self._shared_out(rows):
            expect(part, inside)

    def _shared_out(self, rows: Tensor) -> list[tuple[Images, Tensor, Tensor]]:
        """Of each part that is asked: the places in `rows` that ask it, and its own rows."""
        asked = []
        for part, first in zip(self._parts, self._firsts, strict=True):
            places = torch.nonzero((rows >= first) & (rows < first + len(part))).flatten()
            if len(places):
                asked.append((part, places, rows[places] - first))
        return asked

    def _read(self, rows: Tensor) -> Tensor:
        out = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8, device=self.device)
        for part, places, inside in self._shared_out(rows):
            out[places.to(out.device)] = part.index_select(0, inside.to(part.device)).to(out.device)
        return out


def expect(images: Images, rows: Tensor) -> None:
    """Say that `rows`, int64 [n] on the CPU, will be read soon; nothing is to be done for a tensor."""
    if isinstance(images, Gathered):
        images.expect(rows)


def chosen(images: Images, rows: Tensor) -> Images:
    """Only the images of `rows`, int64 [n] on the CPU; those that are mapped stay so."""
    return images.chosen(rows) if isinstance(images, MappedImages) else images.index_select(0, rows)
