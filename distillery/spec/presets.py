"""Names for lists of terms: the published recipes, spelled out. A preset means nothing that a list could not say."""

from typing import Literal

from distillery.spec.objectives import (
    AnyTerm,
    AttentionTransferTerm,
    CrdTerm,
    CrossEntropyTerm,
    DistTerm,
    DkdTerm,
    HintTerm,
    RelationalTerm,
    ReviewTerm,
    SimilarityTerm,
    SoftTargetsTerm,
    VidTerm,
)

PresetName = Literal["kd", "kd_ls", "dkd", "dist", "fitnet", "at", "sp", "rkd", "vid", "crd", "reviewkd"]
_LABELS = CrossEntropyTerm(weight=1.0)

PRESETS: dict[PresetName, tuple[AnyTerm, ...]] = {
    "kd": (CrossEntropyTerm(), SoftTargetsTerm()),
    "kd_ls": (CrossEntropyTerm(), SoftTargetsTerm(weight=9.0, temperature=2.0, standardize=True)),
    "dkd": (_LABELS, DkdTerm()),
    "dist": (_LABELS, DistTerm()),
    "fitnet": (_LABELS, HintTerm()),
    "at": (_LABELS, AttentionTransferTerm()),
    "sp": (_LABELS, SimilarityTerm()),
    "rkd": (_LABELS, RelationalTerm()),
    "vid": (_LABELS, VidTerm()),
    "crd": (_LABELS, CrdTerm()),
    "reviewkd": (_LABELS, ReviewTerm()),
}


def spelled_out(names: tuple[PresetName, ...]) -> tuple[AnyTerm, ...]:
    """The terms of all these presets; of a term that stands in several, the one of the preset named first."""
    terms: dict[str, AnyTerm] = {}
    for name in names:
        for term in PRESETS[name]:
            terms.setdefault(term.term, term)
    return tuple(terms.values())
