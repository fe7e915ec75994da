"""Errors of ours as JSON, from one process of the service to another that raises them again."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from distillery import errors
from distillery.errors import DistilleryError, FieldProblem, InvalidSpec, TooBusy


class _Packed(BaseModel):
    kind: str
    detail: str
    hint: str = ""
    pointer: str = ""
    problems: tuple[FieldProblem, ...] = ()
    retry_after_seconds: int = 1


def packed(error: DistilleryError) -> bytes:
    """The error as JSON."""
    told = _Packed(kind=type(error).__name__, detail=error.detail, hint=error.hint, pointer=error.pointer)
    if isinstance(error, InvalidSpec):
        told.problems = tuple(error.problems)
    if isinstance(error, TooBusy):
        told.retry_after_seconds = error.retry_after_seconds
    return told.model_dump_json().encode()


def unpacked(content: bytes) -> DistilleryError:
    """The error that was packed; `Unavailable` where the bytes are none."""
    try:
        told = _Packed.model_validate_json(content)
    except ValidationError:
        return errors.Unavailable("Another process of the service answered with what cannot be read.")
    kind = {each.__name__: each for each in _walked(DistilleryError)}.get(told.kind, DistilleryError)
    if issubclass(kind, InvalidSpec):
        return kind(told.problems)
    if issubclass(kind, TooBusy):
        return kind(told.detail, retry_after_seconds=told.retry_after_seconds, hint=told.hint)
    more: dict[str, Any] = {"hint": told.hint, "pointer": told.pointer}
    plain = kind is DistilleryError or "__init__" not in vars(kind)
    return kind(told.detail, **more) if plain else DistilleryError(told.detail, **more)


def _walked(kind: type[DistilleryError]) -> Iterator[type[DistilleryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _walked(below)
