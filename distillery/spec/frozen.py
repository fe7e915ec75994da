"""The one pydantic base of every spec: frozen, closed to unknown fields, strict about types, and helpful about all."""

import difflib
from collections.abc import Iterator
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

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
            lines = [cls._explained(line) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None
        faults = list(_reinterpreted(value, made)) if isinstance(value, dict) else []
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return made

    @classmethod
    def _explained(cls, line: Any) -> InitErrorDetails:
        kind = line["type"]
        if kind == "extra_forbidden" and len(line["loc"]) == 1:
            hint = nearest(str(line["loc"][0]), list(cls.model_fields))
            kind = PydanticCustomError("unknown_field", "This field is not known here.", {"hint": hint})
        elif kind not in _STANDARD_KINDS:
            kind = PydanticCustomError(kind, line["msg"].replace("{", "(").replace("}", ")"), line.get("ctx", {}))
        details = InitErrorDetails(type=kind, loc=line["loc"], input=line["input"])
        if "ctx" in line and isinstance(kind, str):
            details["ctx"] = line["ctx"]
        return details


def _reinterpreted(sent: dict[str, Any], made: BaseModel) -> Iterator[InitErrorDetails]:
    """The fields where pydantic took one type for another (`true` for 1, `"5"` for 5), or a text holds a NUL."""
    for name, value in sent.items():
        kept = getattr(made, name, None)
        if isinstance(value, (list, tuple)) and isinstance(kept, tuple):
            pairs = [((name, place), *pair) for place, pair in enumerate(zip(value, kept, strict=False))]
        elif isinstance(value, dict) and isinstance(kept, dict):
            pairs = [((name, key), item, kept.get(key)) for key, item in value.items()]
        else:
            pairs = [((name,), value, kept)]
        for location, given, taken in pairs:
            if fault := _fault(given, taken):
                yield InitErrorDetails(type=fault, loc=location, input=given)


def _fault(given: Any, taken: Any) -> PydanticCustomError | None:
    if isinstance(given, str) and "\x00" in given:
        return PydanticCustomError("nul_in_text", "The text holds a NUL character.", {"hint": "Leave it out."})
    expected, got = _type_name(taken), _type_name(given)
    if not expected or not got or expected == got:
        return None
    return PydanticCustomError(
        "wrong_type", "This should be {expected}, not {got}.", {"expected": expected, "got": got, "hint": _WRITE[expected]}
    )


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a text" if isinstance(value, str) else ""


_WRITE = {
    "true or false": "Write true or false, without quotes.",
    "a number": "Write a number, without quotes.",
    "a text": "Put it in quotes.",
}
_STANDARD_KINDS = frozenset(get_args(core_schema.ErrorType))
