"""A batch put through the networks in parts, where memory does not hold it whole. The gradients of the parts add up.

The step is that of the whole batch, save for what looks at a batch as a whole: batch normalisation and the terms that
compare samples with each other. To these each part is a batch of its own.
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.data.views import Batch
from engine.lesson import Lesson

_LEAST_ROWS = 2
"""Of a part: one sample alone has no variance, and nothing to be compared with."""


def parted(batch: Batch, *, parts: int) -> Sequence[Batch]:
    """The batch in so many parts of nearly one size, or in fewer, so that none has less than two rows."""
    parts = min(parts, max(1, len(batch.labels) // _LEAST_ROWS))
    if parts == 1:
        return (batch,)
    fields = [each for each in (batch.images, batch.labels, batch.ids, batch.cells) if each is not None]
    return [Batch(*cut) for cut in zip(*(each.tensor_split(parts) for each in fields), strict=True)]


def notice(lesson: Lesson, *, parts: int) -> str:
    """What the user should know of a lesson whose batches are parted."""
    seen_in_part = sorted(_comparing(lesson.objective))
    if any(isinstance(module, _BatchNorm) for module in (*lesson.network.modules(), *lesson.objective.modules())):
        seen_in_part.insert(0, "batch normalisation")
    but = (
        f" Only {_listed(seen_in_part)} {'sees' if len(seen_in_part) == 1 else 'see'} each part as a batch of its own, "
        f"so that the result differs a little from that of an undivided run."
        if seen_in_part
        else " But for rounding, that changes nothing."
    )
    return (
        f"For want of memory each batch goes through the networks in {parts} parts, whose gradients are added up: "
        f"a step learns from the whole batch as before.{but}"
    )


def _comparing(objective: nn.Module) -> set[str]:
    """The names of the terms that compare the samples of a batch, however deep they stand in the objective."""
    return {str(module.name) for module in objective.modules() if getattr(module, "compares_samples", False)}


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
