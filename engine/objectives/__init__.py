"""What the student is taught. One paper per file; the registry is the tuple below, everything else derives from it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.spec.objectives import LayerPair, Term
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.objectives.attention_transfer import AttentionTransfer
from engine.objectives.crd import Crd
from engine.objectives.cross_entropy import CrossEntropy
from engine.objectives.dist import Dist
from engine.objectives.dkd import Dkd
from engine.objectives.hint import Hint
from engine.objectives.relational import Relational
from engine.objectives.review import Review
from engine.objectives.similarity import Similarity
from engine.objectives.soft_targets import SoftTargets
from engine.objectives.vid import Vid
from engine.outputs import Outputs

OBJECTIVES = (
    CrossEntropy,
    SoftTargets,
    Dkd,
    Dist,
    Hint,
    AttentionTransfer,
    Similarity,
    Relational,
    Vid,
    Crd,
    Review,
)
"""Every term, in the order of the documentation. Each is made from its spec and a `Fitting` and has `name`,
`needs_teacher`, `forward`, where it reads layers, `pairs`, and, where its value for a batch is no mean over the
samples, `compares_samples`: such a term is another one for a batch in parts."""


class OfEachTeacher(nn.Module):
    """A term that reads layers, fitted to each of several teachers; its value is the mean over them."""

    def __init__(self, terms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.terms: Any = nn.ModuleList(terms)
        self.name: Any = terms[0].name
        self.needs_teacher: bool = True

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """`{name: scalar}`."""
        pairs = zip(self.terms, teacher.members, strict=True)
        total = sum(term(student, member, batch)[self.name] for term, member in pairs)
        return {self.name: total / len(self.terms)}


class Objective(nn.Module):
    """A list of weighted terms. `forward` gives them raw; the loop weighs them, so that each is logged both ways.

    What a term trains or remembers is a parameter or buffer of this module: optimized, clipped and saved with it.
    """

    def __init__(
        self, terms: Sequence[nn.Module], *, weights: dict[str, float], warmups: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        self.terms: Any = nn.ModuleList(terms)
        self.weights = weights
        self._warmups = warmups or {}

    @property
    def needs_teacher(self) -> bool:
        """Whether any term asks for a teacher's answers."""
        return any(term.needs_teacher for term in self.terms)

    def weights_in(self, epoch: int) -> dict[str, float]:
        """The weight of each term in an epoch, counted from 0: full when its warm-up, if it has one, is over."""
        return {
            name: weight * min((epoch + 1) / warmup, 1.0) if (warmup := self._warmups.get(name, 0.0)) else weight
            for name, weight in self.weights.items()
        }

    @property
    def student_layers(self) -> tuple[str, ...]:
        """The layers of the student that the terms read."""
        pairs = (pair for term in self.terms for each in _fitted(term) for pair in _pairs(each))
        return tuple(dict.fromkeys(pair.student for pair in pairs))

    def teacher_layers(self, member: int = 0) -> tuple[str, ...]:
        """The layers that the terms read of the teacher, or of one of several."""
        pairs = (pair for term in self.terms for pair in _pairs(_fitted(term)[member % len(_fitted(term))]))
        return tuple(dict.fromkeys(pair.teacher for pair in pairs))

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


def _fitted(term: Any) -> Sequence[Any]:
    return tuple(term.terms) if isinstance(term, OfEachTeacher) else (term,)


def _pairs(term: Any) -> tuple[LayerPair, ...]:
    return getattr(term, "pairs", ())


def build(terms: Sequence[Term], fittings: Sequence[Fitting] = ()) -> Objective:
    """The objective that a spec's terms describe, fitted to each teacher in turn.

    Raises:
        InvalidRequest: there are no terms, or a term does not fit the networks; the pointer says which.
    """
    if not terms:
        raise InvalidRequest("The objective has no terms: nothing would be learned.", pointer="/method/objective")
    made = [_made(term, fittings, place=place) for place, term in enumerate(terms)]
    warmups: dict[str, float] = {term.term: term.warmup_epochs for term in terms}
    return Objective(made, weights={term.term: term.weight for term in terms}, warmups=warmups)


def _made(term: Any, fittings: Sequence[Fitting], *, place: int) -> nn.Module:
    kinds: dict[str, Any] = {kind.name: kind for kind in OBJECTIVES}
    kind = kinds[term.term]
    if not hasattr(term, "pairs"):
        made: nn.Module = kind(term)
        return made
    if not fittings:
        raise AssertionError(f"The term {term.term} reads layers: it needs a Fitting for each teacher.")
    try:
        each = [kind(term, fitting) for fitting in fittings]
    except InvalidRequest as error:
        error.pointer = error.pointer or f"/method/objective/{place}/pairs"
        raise
    return each[0] if len(each) == 1 else OfEachTeacher(each)
