"""From pydantic's errors to ours: JSON pointers into what the user sent, and how to mend each."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from distillery.errors import FieldProblem
from distillery.spec.frozen import nearest


def field_problems(error: ValidationError, sent: Any) -> list[FieldProblem]:
    """One `FieldProblem` for each line of `error`; `sent` is the raw value that was validated."""
    return [_problem(line, sent) for line in error.errors(include_url=False)]


def pointer_into(sent: Any, location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) for pydantic's `location`, without the union tags that pydantic inserts."""
    parts: list[str] = []
    here = sent
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if _holds(here, part):
            here = here[part]
        elif not last or not isinstance(here, dict) or _is_tag(here, part):
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, dict):
        return part in here
    return isinstance(here, (list, tuple)) and isinstance(part, int) and part < len(here)


def _is_tag(here: dict[str, Any], part: str | int) -> bool:
    return part in [value for value in here.values() if isinstance(value, str)]


def _problem(line: Any, sent: Any) -> FieldProblem:
    kind = line["type"]
    context = line.get("ctx", {})
    detail = line["msg"].removeprefix("Value error, ")
    return FieldProblem(pointer_into(sent, line["loc"]), kind.upper(), _sentence(detail), _hint(kind, context))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _hint(kind: str, context: dict[str, Any]) -> str:
    if "hint" in context:
        return str(context["hint"])
    if kind == "union_tag_invalid":
        expected = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        return nearest(str(context["tag"]), expected)
    if kind == "union_tag_not_found":
        return f"Add the field {context['discriminator']}."
    return _HINTS.get(kind, "")


_HINTS = {
    "missing": "Add this field.",
    "json_invalid": "Send one JSON object.",
    "finite_number": "Use a finite number.",
}
