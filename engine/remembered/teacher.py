"""A frozen teacher that is asked about a view once, whoever asks again."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data.view_sets import ViewSet
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.remembered.cells import Cells
from engine.remembered.packing import PACKED, packable, packed, unpacked
from engine.remembered.shelf import Entry, put
from engine.teachers import FrozenTeacher

_LOGITS = "logits"
_Known = NDArray[np.bool_]
_Cells = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Answers to images since the beginning of a run."""

    asked: int
    """Computed by the teacher."""
    recalled: int
    """Read."""
    damaged: int
    """Found with a wrong sum, and computed anew; among those asked."""
    unkept: int
    """Computed and not kept for want of room; among those asked."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class RememberingTeacher(nn.Module):
    """The same answers as those of the teacher, rounded to float16 whether they are read or just computed.

    So a run learns the same whether it finds them or makes them. The rounding moves a logit by at most 2^-11 of itself;
    answers that float16 cannot hold are not kept, and given as they are. With `packs`, logits of many classes are
    packed besides, see `packing`. Views without a number are asked live.
    """

    def __init__(self, teacher: FrozenTeacher, *, entry: Entry, views: ViewSet, packs: bool = False) -> None:
        super().__init__()
        self._teacher = teacher
        self._columns = {
            name: _Column(entry, name, views=views, packs=packs and name == _LOGITS)
            for name in (_LOGITS, *teacher.layers)
        }
        self._asked = self._recalled = self._unkept = 0

    @property
    def counts(self) -> Counts:
        """So far."""
        damaged = sum(each.damaged for each in self._columns.values())
        return Counts(asked=self._asked, recalled=self._recalled, damaged=damaged, unkept=self._unkept)

    def knowledge(self, batch: Batch) -> Outputs:
        """Logits and maps in float32 for `batch`, on the device of its images."""
        if batch.cells is None:
            return self._teacher.knowledge(batch)
        cells = batch.cells.numpy()
        read = {name: column.read(cells) for name, column in self._columns.items()}
        known: _Known = np.logical_and.reduce([whole for _, whole in read.values()])
        values = {name: recalled for name, (recalled, _) in read.items()}
        self._recalled += int(known.sum())
        if not known.all():
            values = self._with_asked(batch, cells, known, values)
        device = batch.images.device
        told = {name: torch.from_numpy(value).to(device, non_blocking=True).float() for name, value in values.items()}
        return Outputs(logits=told.pop(_LOGITS), features=told)

    def _with_asked(self, batch: Batch, cells: _Cells, known: _Known, recalled: Mapping[str, Any]) -> dict[str, Any]:
        """The values of every column, with those that nobody knows yet computed and kept."""
        unknown = torch.from_numpy(np.flatnonzero(~known))
        live = self._teacher.knowledge(_part(batch, unknown) if known.any() else batch)
        values, kept = {}, True
        for name, answer in ((_LOGITS, live.logits), *live.features.items()):
            told, room = self._columns[name].keep(cells[~known], answer.float().cpu().numpy())
            values[name] = _merged(recalled[name], told, known)
            kept = kept and room
        self._asked += len(unknown)
        self._unkept += 0 if kept else len(unknown)
        return values


class _Column:
    """One kind of answer of one shape, such as the logits, for every view."""

    def __init__(self, entry: Entry, name: str, *, views: ViewSet, packs: bool) -> None:
        self._entry, self._views, self._asked_to_pack = entry, views, packs
        self._place = entry.folder / name.replace("/", "_")
        self._shape: tuple[int, ...] | None = None
        self._cells: Cells | None = None
        self._open()

    @property
    def damaged(self) -> int:
        return 0 if self._cells is None else self._cells.damaged

    def read(self, cells: _Cells) -> tuple[Any, _Known]:
        """float16 [B, ...], or nothing while the shape is not known, and which rows of it are known."""
        if self._cells is None or self._shape is None:
            return None, np.zeros(len(cells), dtype=np.bool_)
        values, whole = self._cells.read(cells)
        return self._unpacked(values).reshape(len(cells), *self._shape), whole

    def keep(self, cells: _Cells, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
        """Write [B, ...] in B cells; gives the values as they will be read, and whether there was room for them.

        What float16 cannot hold is not written, and given as it is.
        """
        if self._cells is None:
            put(self._shape_file, json.dumps(values.shape[1:]))
            self._open()
        if self._cells is None:
            raise AssertionError("A column whose shape is written can be opened.")
        flat = values.reshape(len(values), -1).copy()
        fits = (np.abs(flat) <= np.finfo(np.float16).max).all(axis=1)
        kept = packed(flat[fits]) if self._packs else flat[fits].astype(np.float16)
        flat[fits] = self._unpacked(kept)
        return flat.reshape(values.shape), self._cells.write(cells[fits], kept)

    @property
    def _packs(self) -> bool:
        return self._asked_to_pack and self._shape is not None and packable(self._shape)

    def _unpacked(self, kept: NDArray[np.float16]) -> Any:
        return unpacked(kept, classes=self._shape[0]) if self._packs and self._shape else kept

    @property
    def _shape_file(self) -> Path:
        return self._place.with_name(f"{self._place.name}.shape.json")

    def _open(self) -> None:
        if not self._shape_file.is_file():
            return
        self._shape = tuple(json.loads(self._shape_file.read_text(encoding="utf-8")))
        path = self._place.with_name(f"{self._place.name}.cells")
        width = kept_width(self._shape, packs=self._asked_to_pack)
        self._cells = Cells(path, count=self._views.count, width=width, grow=self._entry.grow)


def kept_width(shape: tuple[int, ...], *, packs: bool) -> int:
    """How many numbers of 16 bits one answer of this shape becomes."""
    return PACKED if packs and packable(shape) else int(np.prod(shape))


def _part(batch: Batch, rows: Tensor) -> Batch:
    """Some samples of a batch, in the layout of its images."""
    channels_last = batch.images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    there = rows.to(batch.images.device)
    images = batch.images.index_select(0, there).contiguous(memory_format=layout)
    return replace(batch, images=images, labels=batch.labels[there], ids=batch.ids[there], cells=None)


def _merged(recalled: Any, live: NDArray[np.float32], known: _Known) -> NDArray[np.float32]:
    if not known.any():
        return live
    values: NDArray[np.float32] = recalled.astype(np.float32)
    values[~known] = live
    return values
