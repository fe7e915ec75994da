"""A teacher that is a table: answers that were computed elsewhere, by the id of each sample."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distillery.errors import InvalidRequest, UnusableWeights
from engine.black_box import FLOOR, log_probabilities
from engine.data.dataset import Dataset
from engine.data.views import Batch
from engine.evaluate import BatchNetwork
from engine.intake import answers
from engine.intake.answers import Answers


class AnswersTable(BatchNetwork):
    """Answers [M, K] of M samples, asked for by id. It reads no image, and nothing in it asks for a gradient.

    Of a table of top answers, the rest of the probability is spread evenly over the classes that it does not name.
    """

    ids: Tensor
    values: Tensor
    indices: Tensor

    def __init__(self, table: Answers, *, classes: int, outputs: Literal["auto", "logits", "probabilities"]) -> None:
        super().__init__()
        order = np.argsort(table.ids, kind="stable")
        ids = table.ids[order].astype(np.int64)
        values = torch.from_numpy(table.values[order].astype(np.float32))
        self.outputs: Literal["logits", "probabilities"] = table.kind if outputs == "auto" else outputs
        self.classes = classes
        self.register_buffer("ids", torch.from_numpy(ids))
        top = torch.empty(0, 0, dtype=torch.int64)
        if table.indices is not None:
            top = torch.from_numpy(table.indices[order].astype(np.int64))
            values = values if self.outputs == "probabilities" else values.softmax(1) * (1 - FLOOR)
        elif self.outputs == "probabilities":
            values = log_probabilities(values)
        self.register_buffer("values", values)
        self.register_buffer("indices", top)

    def __len__(self) -> int:
        return len(self.ids)

    def answer(self, batch: Batch) -> Tensor:
        """Logits float32 [B, K] for `batch.ids`.

        Raises:
            InvalidRequest: the table lacks one of them.
        """
        return self.of(batch.ids)

    def of(self, ids: Tensor) -> Tensor:
        """Logits float32 [B, K] for sample ids, int64 [B]."""
        wanted = ids.to(self.ids.device)
        rows = torch.searchsorted(self.ids, wanted).clamp_max(len(self.ids) - 1)
        lacking = self.ids[rows] != wanted
        if bool(lacking.any()):
            raise _lacks(int(lacking.sum()), of=len(ids), first=int(wanted[lacking][0]))
        values = self.values[rows]
        if self.indices.numel():
            values = self._spread(values, self.indices[rows])
        return values.to(ids.device)

    def _spread(self, values: Tensor, indices: Tensor) -> Tensor:
        """Log-probabilities [B, K] from those of the named classes [B, k]."""
        others = self.classes - indices.shape[1]
        rest = (1 - values.sum(1, keepdim=True)).clamp_min(0) / max(1, others)
        return log_probabilities(rest.expand(-1, self.classes).scatter(1, indices, values))

    def content(self) -> bytes:
        """The table as an npz file that can teach again."""
        values, indices = self.values.cpu().numpy(), self.indices.cpu().numpy() if self.indices.numel() else None
        # Logarithms of probabilities are logits that give the very same answers.
        kind: Literal["logits", "probabilities"] = "logits" if indices is None else "probabilities"
        return answers.packed(Answers(self.ids.cpu().numpy(), None, values, indices, kind))

    def require(self, dataset: Dataset) -> None:
        """Refuse data of which the table does not answer every sample.

        Raises:
            UnusableWeights: samples are missing; how many of each split, and the first.
        """
        held, counts, first = self.ids.cpu(), [], None
        splits = {name: getattr(dataset, name, None) for name in ("train", "validation", "test", "unlabelled")}
        for name, split in splits.items():
            wanted = None if split is None else getattr(split, "ids", None)
            if wanted is None:
                continue
            lacking = wanted.cpu()[~torch.isin(wanted.cpu(), held)]
            if len(lacking):
                counts.append(f"{len(lacking):,} of {len(wanted):,} {name} samples")
                first = int(lacking[0]) if first is None else first
        if counts:
            raise UnusableWeights(
                f"The table of answers lacks {', '.join(counts)}; the first is the sample {first}.",
                hint="A table needs an answer for every sample of the data, by the number that the packed data gives "
                "it, from 0. Compute the missing ones, or use a live teacher.",
                pointer="/teacher",
            )


def _lacks(count: int, *, of: int, first: int) -> InvalidRequest:
    return InvalidRequest(
        f"The table has no answer for {count} of {of} samples; the first is the sample {first}.",
        hint="A table answers only the samples that it was made for.",
        pointer="/teacher",
    )


def read_table(
    path: Path, *, classes: int, outputs: Literal["auto", "logits", "probabilities"] = "auto"
) -> AnswersTable:
    """The table of an npz or parquet file whose ids are sample numbers.

    Raises:
        UnusableWeights: it is missing, damaged, or answers for another number of classes.
    """
    table = answers.read(path)
    if table.names is not None:
        raise UnusableWeights(
            f"{path.name} tells its samples by name; here only their numbers are known.",
            hint="Add it as a model with --dataset, which turns names into numbers, or write numbers.",
            pointer="/teacher",
        )
    width = table.classes
    if (width is not None and width != classes) or (width is None and table.most_class >= classes):
        raise UnusableWeights(
            f"{path.name} answers for {width or f'{table.most_class + 1} or more'} classes; the data has {classes}.",
            hint="Use a table of the same classes in the same order.",
            pointer="/teacher",
        )
    return AnswersTable(table, classes=classes, outputs=outputs)
