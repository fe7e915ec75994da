"""The one pydantic base of every spec: frozen, closed to unknown fields, and helpful about them."""

import difflib
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the known word nearest to `name`, or all of them when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(known)}."


class Frozen(BaseModel):
    """Immutable and closed. An unknown field is refused with the nearest known one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_field(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            lines = [cls._explained(line) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None

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


_STANDARD_KINDS = frozenset(get_args(core_schema.ErrorType))
