"""Whether the layers that a spec names in pairs are there, in every network that is to be read by that name."""

import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice

from app import networks
from app.networks import Named
from distillery.errors import FieldProblem
from distillery.spec import JobSpec
from distillery.spec.methods import OnlineMethod
from distillery.spec.objectives import LayerPair
from models import catalog

EMBEDDING = "embedding"
"""The vector that the classifier reads: every network has it, and it is no module."""
MOST_TOLD = 20
"""To look for the nearest of a thousand names takes a while, and a hostile spec could ask for it often."""


def unknown_layers(spec: JobSpec) -> Iterator[FieldProblem]:
    """One problem for each side of a pair whose layer is missing in a network that the catalogue knows."""
    yield from islice(_unknown(spec), MOST_TOLD)


def _unknown(spec: JobSpec) -> Iterator[FieldProblem]:
    learners, teachers = _learners_and_teachers(spec)
    for term_place, term in enumerate(spec.method.terms):
        for place, pair in enumerate(_explicit(getattr(term, "pairs", ()))):
            pointer = f"/method/objective/{term_place}/pairs/{place}"
            yield from _missing(pair.student, learners, pointer=f"{pointer}/student")
            yield from _missing(pair.teacher, teachers, pointer=f"{pointer}/teacher")


def _explicit(pairs: str | Sequence[LayerPair]) -> Sequence[LayerPair]:
    return () if isinstance(pairs, str) else pairs


def _learners_and_teachers(spec: JobSpec) -> tuple[list[Named], list[Named]]:
    """Whose layers the student's side of a pair names, and whose the teacher's. An assistant, or a peer, is both."""
    above, between, student = networks.teachers(spec), networks.assistants(spec), networks.student(spec)
    learners, teachers = [student, *between], [*above, *between]
    if isinstance(spec.method, OnlineMethod) and spec.method.mutual:
        learners, teachers = [student, *above], [*above, student]
    return [each for each in learners if each.known], [each for each in teachers if each.known]


def _missing(layer: str, readers: Sequence[Named], *, pointer: str) -> Iterator[FieldProblem]:
    for named in readers:
        if layer != EMBEDDING and layer not in _names(named.architecture):
            detail = f"The {named.role} {named.architecture} has no layer '{layer}'."
            yield FieldProblem(pointer, "UNKNOWN_LAYER", detail, _hint(named.architecture, layer))
            return


@cache
def _names(architecture: str) -> frozenset[str]:
    return frozenset(catalog.layers(architecture))


def _hint(architecture: str, layer: str) -> str:
    close = difflib.get_close_matches(layer, [*catalog.layers(architecture), EMBEDDING], n=3, cutoff=0.6)
    guess = "Did you mean '{}'? ".format("' or '".join(close)) if close else ""
    stages = ", ".join(catalog.find(architecture).stages)
    return f"{guess}Its stages end at {stages}; '{EMBEDDING}' is what its classifier reads."
