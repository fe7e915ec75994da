"""The one pydantic base of every spec: frozen, closed to unknown fields, strict about types, and helpful about all."""

import difflib
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

MOST_PROBLEMS = 100
"""More than this in one spec tell its author nothing new, and a hostile one could hold a hundred thousand."""
_MOST_FIELDS = 1000
"""An object with more fields is refused unread: naming the nearest of each would take a minute."""


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the known word nearest to `name`, or all of them when none is near."""
    close = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(known)}."


class Frozen(BaseModel):
    """Immutable and closed. An unknown field is refused with the nearest known one, `true` is not 1, `"5"` not 5."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", "This object has far too many fields.")
        try:
            made = handler(value)
        except ValidationError as error:
            lines = [cls._explained(line) for line in error.errors(include_url=False)[:MOST_PROBLEMS]]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None
        faults = list(islice(_reinterpreted(value, made), MOST_PROBLEMS)) if isinstance(value, dict) else []
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return made

    @classmethod
    def _explained(cls, line: Any) -> InitErrorDetails:
        kind = line["type"]
        if kind == "extra_forbidden" and len(line["loc"]) == 1:
            hint = nearest(str(line["loc"][0]), list(cls.model_fields))
            kind = PydanticCustomError("unknown_field", "This field is not known here.", {"hint": hint})
        elif kind not in _STANDARD_KINDS or "hint" in line.get("ctx", {}):
            kind = PydanticCustomError(kind, line["msg"].replace("{", "(").replace("}", ")"), line.get("ctx", {}))
        details = InitErrorDetails(type=kind, loc=line["loc"], input=line["input"])
        if "ctx" in line and isinstance(kind, str):
            details["ctx"] = line["ctx"]
        return details


def _reinterpreted(sent: dict[str, Any], made: BaseModel) -> Iterator[InitErrorDetails]:
    """The fields where pydantic took one type for another (`true` for 1, `"5"` for 5), or a text holds a NUL."""
    for name, value in sent.items():
        for location, given, taken in _pairs(name, value, getattr(made, name, None)):
            if fault := _fault(given, taken):
                yield InitErrorDetails(type=fault, loc=location, input=given)


def _pairs(name: str, sent: Any, made: Any) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    if isinstance(sent, (list, tuple)) and isinstance(made, tuple):
        yield from (((name, place), *pair) for place, pair in enumerate(zip(sent, made, strict=False)))
    elif isinstance(sent, dict) and isinstance(made, dict):
        yield from (((name, key), item, made.get(key)) for key, item in sent.items())
    else:
        yield (name,), sent, made


def _fault(given: Any, taken: Any) -> PydanticCustomError | None:
    if isinstance(given, str) and "\x00" in given:
        return PydanticCustomError("nul_in_text", "The text holds a NUL character.", {"hint": "Leave it out."})
    expected, got = _type_name(taken), _type_name(given)
    if not expected or not got or expected == got:
        return None
    context = {"expected": expected, "got": got, "hint": _WRITE[expected]}
    return PydanticCustomError("wrong_type", "This should be {expected}, not {got}.", context)


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a text" if isinstance(value, str) else ""


_WRITE = {
    "true or false": "Write true or false, without quotes.",
    "a number": "Write a number, without quotes (YAML reads 5e-4 as a text: write 5.0e-4).",
    "a text": "Put it in quotes.",
}
_STANDARD_KINDS = frozenset(get_args(core_schema.ErrorType))
