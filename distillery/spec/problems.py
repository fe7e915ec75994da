"""From pydantic's errors to ours: JSON pointers into what the user sent, and how to mend each."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from distillery.errors import FieldProblem
from distillery.spec.frozen import MOST_PROBLEMS, nearest

_LONGEST_TEXT = 500
_LONGEST_NAME = 100


def field_problems(error: ValidationError, sent: Any) -> list[FieldProblem]:
    """One `FieldProblem` for each line of `error`, at most `MOST_PROBLEMS`; `sent` is the raw value validated."""
    return problems_of(error.errors(include_url=False), sent)


def problems_of(lines: Sequence[Any], sent: Any) -> list[FieldProblem]:
    """The same for pydantic's error lines, as `ValidationError.errors()` gives them."""
    found = [_problem(line, sent) for line in lines[:MOST_PROBLEMS]]
    return [problem for problem in found if not _follows_from_another(problem, found)]


def pointer_into(sent: Any, location: Sequence[str | int], *, missing: bool = False) -> str:
    """A JSON pointer (RFC 6901) for pydantic's `location`, without the union tags that pydantic inserts.

    Only with `missing` may the last part be a field that `sent` has not.
    """
    parts: list[str] = []
    here = sent
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, (list, tuple)) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        elif place > 0 and not (missing and last and isinstance(here, dict)):
            continue
        parts.append(_shown(str(part), _LONGEST_NAME).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _follows_from_another(problem: FieldProblem, found: Iterable[FieldProblem]) -> bool:
    """Pydantic counts only the good items of a list: one bad item makes it 'too short' besides."""
    if problem.code not in {"TOO_SHORT", "TOO_LONG"}:
        return False
    return any(other.pointer.startswith(f"{problem.pointer}/") for other in found)


def _problem(line: Any, sent: Any) -> FieldProblem:
    # The same fault has two names, depending on whether a union or the web framework looked first.
    kind = "model_type" if line["type"] == "model_attributes_type" else line["type"]
    context = line.get("ctx", {})
    location = list(line["loc"])
    if kind == "union_tag_invalid" and isinstance(line["input"], dict):
        location.append(str(context["discriminator"]).strip("'"))
    detail, hint = _split(_detail(kind, line["msg"], context))
    hint = _hint(kind, line["input"], context) or hint
    pointer = pointer_into(sent, location, missing=kind == "missing")
    return FieldProblem(pointer, kind.upper(), _shown(detail, _LONGEST_TEXT), _shown(hint, _LONGEST_TEXT))


def _detail(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind == "union_tag_invalid":
        return f"'{context['tag']}' is not one of {context['expected_tags']}."
    known = {} if "hint" in context else _DETAILS  # a fault of our own comes with words of its own
    text = known.get(kind, message.removeprefix("Value error, "))
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _split(text: str) -> tuple[str, str]:
    """Detail and hint of a text whose last sentence, of two or more, says how to mend it."""
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", text)
    return " ".join(sentences[:-1]) or text, sentences[-1] if len(sentences) > 1 else ""


def _hint(kind: str, value: Any, context: dict[str, Any]) -> str:
    if "hint" in context:
        return str(context["hint"])
    if kind == "union_tag_invalid":
        return nearest(str(context["tag"]), _quoted(context["expected_tags"]))
    if kind in {"literal_error", "enum"}:
        known = _quoted(context["expected"])
        return nearest(value, known) if isinstance(value, str) and known else f"Use {context['expected']}."
    return _HINTS.get(kind, "").format_map(context)


def _quoted(listing: Any) -> list[str]:
    return re.findall(r"'([^']*)'", str(listing))


def _shown(text: str, longest: int) -> str:
    """Text that can be written as JSON (no lone surrogates, no NUL) and is not a megabyte long."""
    safe = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return safe if len(safe) <= longest else f"{safe[:longest]}…"


_DETAILS = {
    "missing": "This field is required.",
    "model_type": "This should be an object with named fields.",
    "dict_type": "This should be an object with named fields.",
    "tuple_type": "This should be a list.",
    "list_type": "This should be a list.",
    "invalid_key": "Every key of an object should be a string.",
    "too_short": "There are too few items here.",
    "too_long": "There are too many items here.",
    "union_tag_not_found": "This does not say which kind it is.",
}
"""Where pydantic's own words speak of Python."""

_HINTS = {
    "missing": "Add this field.",
    "union_tag_not_found": "Add the field {discriminator}.",
    "finite_number": "Use a finite number.",
    "greater_than": "Use a number above {gt}.",
    "greater_than_equal": "Use {ge} or more.",
    "less_than": "Use a number below {lt}.",
    "less_than_equal": "Use {le} or less.",
    "int_type": "Use a whole number.",
    "int_parsing": "Use a whole number.",
    "int_parsing_size": "Use a smaller number.",
    "int_from_float": "Use a whole number.",
    "float_type": "Use a number.",
    "float_parsing": "Use a number.",
    "bool_type": "Use true or false.",
    "bool_parsing": "Use true or false.",
    "string_type": "Use a string.",
    "string_unicode": "Use valid Unicode text, without lone surrogates.",
    "string_too_short": "Use {min_length} or more characters.",
    "string_too_long": "Use at most {max_length} characters.",
    "string_pattern_mismatch": "Write it in the form of the pattern {pattern}",
    "datetime_type": "Use a time such as 2026-01-31T12:00:00Z.",
    "datetime_parsing": "Use a time such as 2026-01-31T12:00:00Z.",
    "datetime_from_date_parsing": "Use a time such as 2026-01-31T12:00:00Z.",
    "timezone_aware": "Add the time zone, such as Z for UTC.",
    "too_short": "Give {min_length} or more items.",
    "too_long": "Give at most {max_length} items.",
    "tuple_type": "Write it as a list, in square brackets.",
    "list_type": "Write it as a list, in square brackets.",
    "model_type": "Write named fields, such as name: value.",
    "dict_type": "Write named fields, such as name: value.",
    "invalid_key": "Put the key in quotes.",
}
