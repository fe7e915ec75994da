"""What a network says about a batch: the one value that teachers, students and objectives exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from torch import Tensor

Merge = Literal["mean_logits", "mean_probabilities", "confidence"]


def _nothing() -> Mapping[str, Tensor]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Outputs:
    """Answers for a batch of B samples; `features` and `attentions` are keyed by layer name."""

    logits: Tensor
    """[B, K], before any softmax. Of several teachers, the merged ones."""
    features: Mapping[str, Tensor] = field(default_factory=_nothing)
    """[B, C, H, W], whatever the kind of network: see `engine.taps`."""
    attentions: Mapping[str, Tensor] = field(default_factory=_nothing)
    """[B, heads, L, L]."""
    mask: Tensor | None = None
    """[B, L], true where a position counts."""
    members: tuple["Outputs", ...] = ()
    """Of several teachers, what each of them says."""
    merge: Merge = "mean_logits"
    """How `members` became one."""
    shares: Tensor | None = None
    """[members, B]: what each member counts for each sample, where the merge weighs them; adds up to 1."""
