"""What each term of the objective contributes to the gradient, so that a dead term is seen."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from engine.lesson import Lesson
from engine.loop_state import History

DEAD_SHARE = 0.001
"""A term that stays below this share of the gradient for a whole epoch teaches nothing."""
_PREFIX = "share/"


def gradient_shares(weighted: Mapping[str, Tensor], *, lesson: Lesson) -> dict[str, float]:
    """The norm of each weighted term's gradient on the shared trunk, over the sum of these norms; 0 to 1, by
    `share/<term>`. Nothing when fewer than two terms meet there. The graph stays for the step that follows.
    """
    meeting = lesson.meeting_terms()
    names = [name for name, value in weighted.items() if value.requires_grad and (meeting is None or name in meeting)]
    if len(names) < 2:
        return {}
    trunk = lesson.trunk()
    norms = []
    for name in names:
        gradients = torch.autograd.grad(weighted[name], trunk, retain_graph=True, allow_unused=True)
        found = [each for each in gradients if each is not None]
        norms.append(torch.nn.utils.get_total_norm(found) if found else weighted[name].new_zeros(()))
    # One read of the device for all of them.
    sizes = torch.stack(norms).double().tolist()
    total = sum(sizes)
    return {f"{_PREFIX}{name}": size / total if total else 0.0 for name, size in zip(names, sizes, strict=True)}


def last_look(history: History) -> int | None:
    """The step of the latest look at the shares; None before the first."""
    return max((curve[-1][0] for key, curve in history.items() if key.startswith(_PREFIX)), default=None)


def dead_terms(history: History, *, since: int) -> Iterator[str]:
    """The terms whose share was always below `DEAD_SHARE` when looked at after step `since`, and the two last times."""
    for key, curve in history.items():
        looks = [value for place, (step, value) in enumerate(curve) if step > since or place >= len(curve) - 2]
        if key.startswith(_PREFIX) and len(looks) >= 2 and all(value < DEAD_SHARE for value in looks):
            yield key.removeprefix(_PREFIX)
