"""A frozen teacher that is asked about a view once, whoever asks again."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data.view_sets import EveryView, ViewSet
from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import Precision
from engine.remembered.cells import Cells
from engine.remembered.packing import PACKED, packable, packed, unpacked
from engine.remembered.shelf import Entry, put
from engine.teachers import FrozenTeacher

_LOGITS = ""
"""Beside the names of layers, none of which is empty."""
_Known = NDArray[np.bool_]
_Cells = NDArray[np.int64]
OpenEntry = Callable[[str], Entry]
"""Gives the entry for a number format: `fp32`, `bf16` or `int8`."""


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

    def __init__(self, teacher: FrozenTeacher, *, entry: OpenEntry, views: ViewSet, packs: bool = False) -> None:
        super().__init__()
        self.frozen = teacher
        self._entry_of, self._views, self._packs = entry, views, packs
        self._columns: dict[str, dict[str, _Column]] = {}
        self._asked = self._recalled = self._unkept = 0

    @property
    def counts(self) -> Counts:
        """So far."""
        damaged = sum(each.damaged for columns in self._columns.values() for each in columns.values())
        return Counts(asked=self._asked, recalled=self._recalled, damaged=damaged, unkept=self._unkept)

    def still_to_ask(self, *, epochs: int, precision: Precision) -> int:
        """How many answers a run of so many epochs in that precision will have to compute, as far as can be told."""
        views, count = self._views.planes, self._views.count
        shown = views * (1 - (1 - 1 / views) ** epochs) if isinstance(self._views, EveryView) else min(views, epochs)
        known = min(column.known() for column in self._in(_number_format(self.frozen.form_in(precision))).values())
        return max(0, math.ceil(count * shown * (1 - min(1.0, known / (count * shown)))))

    def _in(self, number_format: str) -> dict[str, "_Column"]:
        """The columns of answers in a number format, the logits' first. A teacher may yet take another form."""
        if number_format not in self._columns:
            entry = self._entry_of(number_format)
            layers = {name: _Column(entry, _file_name(name), views=self._views) for name in self.frozen.layers}
            logits = _Column(entry, "logits", views=self._views, packs=self._packs)
            self._columns[number_format] = {_LOGITS: logits, **layers}
        return self._columns[number_format]

    def knowledge(self, batch: Batch) -> Outputs:
        """Logits and maps in float32 for `batch`, on the device of its images."""
        if batch.cells is None:
            return self.frozen.knowledge(batch)
        cells = batch.cells.numpy()
        columns = self._in(_number_format(self.frozen.form))
        read = {name: column.read(cells) for name, column in columns.items()}
        known: _Known = np.logical_and.reduce([whole for _, whole in read.values()])
        values = {name: recalled for name, (recalled, _) in read.items()}
        self._recalled += int(known.sum())
        if not known.all():
            values = self._with_asked(batch, columns, known, values)
        device = batch.images.device
        told = {name: torch.from_numpy(value).to(device, non_blocking=True).float() for name, value in values.items()}
        return Outputs(logits=told.pop(_LOGITS), features=told)

    def _with_asked(
        self, batch: Batch, columns: Mapping[str, "_Column"], known: _Known, recalled: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The values of every column, with those that nobody knows yet computed and kept."""
        if batch.cells is None:
            raise AssertionError("Only views with a number are kept.")
        cells = batch.cells.numpy()[~known]
        unknown = torch.from_numpy(np.flatnonzero(~known))
        live = self.frozen.knowledge(_part(batch, unknown) if known.any() else batch)
        values, kept = {}, True
        for name, answer in ((_LOGITS, live.logits), *live.features.items()):
            told, room = columns[name].keep(cells, answer.float().cpu().numpy())
            values[name] = _merged(recalled[name], told, known)
            kept = kept and room
        self._asked += len(unknown)
        self._unkept += 0 if kept else len(unknown)
        return values


def _number_format(form: str) -> str:
    """Forms of one number format differ by far less than the rounding to float16, and so share their answers."""
    return form.rpartition("-")[2]


def _file_name(layer: str) -> str:
    """Whatever a network calls its layers: as long as it likes, or `logits`."""
    return f"layer-{hashlib.sha256(layer.encode()).hexdigest()[:16]}"


class _Column:
    """One kind of answer of one shape, such as the logits, for every view."""

    def __init__(self, entry: Entry, name: str, *, views: ViewSet, packs: bool = False) -> None:
        self._entry, self._views, self._asked_to_pack = entry, views, packs
        self._place = entry.folder / name
        self._shape: tuple[int, ...] | None = None
        self._cells: Cells | None = None
        self._open()

    @property
    def damaged(self) -> int:
        return 0 if self._cells is None else self._cells.damaged

    def known(self) -> int:
        """How many answers there are, those included that nobody has checked yet."""
        return 0 if self._cells is None else self._cells.filled(self._views.planes)

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
        if self._cells is None or self._shape != values.shape[1:]:  # unknown as yet, or damaged
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
        try:
            shape = json.loads(self._shape_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # damaged is as good as absent: it is written with the next answers
            return
        if not (isinstance(shape, list) and shape and all(isinstance(side, int) and side > 0 for side in shape)):
            return
        self._shape = tuple(shape)
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
