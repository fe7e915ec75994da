"""What the student is taught. One paper per file; the registry is the tuple below, everything else derives from it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.spec.objectives import Term
from engine.data.views import Batch
from engine.objectives.cross_entropy import CrossEntropy
from engine.objectives.soft_targets import SoftTargets
from engine.outputs import Outputs

OBJECTIVES = (CrossEntropy, SoftTargets)
"""Every term, in the order of the documentation. Each has `name`, `needs_teacher` and `forward`."""


class Objective(nn.Module):
    """A list of weighted terms. `forward` gives them raw; the loop weighs them, so that each is logged both ways.

    What a term trains or remembers is a parameter or buffer of this module: optimized, clipped and saved with it.
    """

    def __init__(self, terms: Sequence[CrossEntropy | SoftTargets], *, weights: dict[str, float]) -> None:
        super().__init__()
        self.terms: Any = nn.ModuleList(terms)
        self.weights = weights

    @property
    def needs_teacher(self) -> bool:
        """Whether any term asks for a teacher's answers."""
        return any(term.needs_teacher for term in self.terms)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """Each term by its name, unweighted. Without a teacher, only the terms that need none.

        Raises:
            InvalidRequest: there is no teacher and no term can do without.
        """
        raw: dict[str, Tensor] = {}
        for term in self.terms:
            if teacher is not None or not term.needs_teacher:
                raw |= term(student, teacher, batch)
        if not raw:
            raise InvalidRequest(
                "Every term of the objective asks for a teacher, and there is none.",
                hint="Add the term cross_entropy, or give a teacher.",
                pointer="/method/objective",
            )
        return raw


def build(terms: Sequence[Term]) -> Objective:
    """The objective that a spec's terms describe.

    Raises:
        InvalidRequest: there are no terms.
    """
    if not terms:
        raise InvalidRequest("The objective has no terms: nothing would be learned.", pointer="/method/objective")
    kinds: dict[str, Any] = {kind.name: kind for kind in OBJECTIVES}
    return Objective([kinds[term.term](term) for term in terms], weights={term.term: term.weight for term in terms})
