"""What a spec may name: architectures, objective terms, strategies and runtimes."""

import inspect
from typing import Any, get_args

from fastapi import APIRouter

from distillery.spec.latency import RUNTIMES
from distillery.spec.methods import Method
from distillery.spec.objectives import Term
from distillery.spec.presets import PRESETS
from distillery.views import Architecture, ObjectiveTerm, Page
from models import catalog

router = APIRouter(tags=["catalogues"])


@router.get("/v1/architectures")
def list_architectures() -> Page[Architecture]:
    """List every network that can teach or learn, all on one page."""
    return Page(data=tuple(_architecture(row) for row in catalog.ROWS))


@router.get("/v1/objectives")
def list_objectives() -> Page[ObjectiveTerm]:
    """List the terms of which an objective is made."""
    return Page(data=tuple(_entry(kind, tag="term") for kind in _members(Term)))


@router.get("/v1/strategies")
def list_strategies() -> Page[ObjectiveTerm]:
    """List the ways to bring the teacher's knowledge to the student, with the presets of each."""
    return Page(data=tuple(_entry(kind, tag="strategy") for kind in _members(Method)))


@router.get("/v1/runtimes")
def list_runtimes() -> Page[ObjectiveTerm]:
    """List the runtimes in which latency can be measured."""
    return Page(
        data=tuple(
            ObjectiveTerm(
                name=name, summary=summary, paper="", when_to_use=when, defaults={}, json_schema={"const": name}
            )
            for name, (summary, when) in RUNTIMES.items()
        )
    )


def _architecture(row: catalog.Row) -> Architecture:
    return Architecture(
        name=row.name,
        family=row.family,
        parameters=row.parameters,
        macs=row.macs,
        input=row.input,
        stages=row.stages,
    )


def _members(choice: Any) -> tuple[Any, ...]:
    """The classes of a tagged union of the spec."""
    return get_args(get_args(choice)[0])


def _entry(kind: Any, *, tag: str) -> ObjectiveTerm:
    defaults = kind().model_dump(mode="json")
    return ObjectiveTerm(
        name=defaults.pop(tag),
        summary=inspect.getdoc(kind) or "",
        paper=getattr(kind, "paper", ""),
        when_to_use=getattr(kind, "when_to_use", ""),
        defaults=defaults,
        json_schema=kind.model_json_schema(),
        presets=_presets() if "preset" in kind.model_fields else {},
    )


def _presets() -> dict[str, tuple[dict[str, Any], ...]]:
    return {name: tuple(term.model_dump(mode="json") for term in terms) for name, terms in PRESETS.items()}
