"""What a network says about a batch: the one value that teachers, students and objectives exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor


def _nothing() -> Mapping[str, Tensor]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Outputs:
    """Answers for a batch of B samples; `features` and `attentions` are keyed by layer name."""

    logits: Tensor
    """[B, K], before any softmax."""
    features: Mapping[str, Tensor] = field(default_factory=_nothing)
    """[B, C, H, W] for convolutions, [B, L, D] for transformers."""
    attentions: Mapping[str, Tensor] = field(default_factory=_nothing)
    """[B, heads, L, L]."""
    mask: Tensor | None = None
    """[B, L], true where a position counts."""
