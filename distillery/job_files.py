"""Read a job from a YAML or JSON file or from standard input, and change single fields with `path=value`."""

import copy
import re
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from distillery.errors import FieldProblem, InvalidRequest, InvalidSpec
from distillery.spec import parse

STDIN = "-"
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: numbers such as 5e-4 or 010, no dates, no infinity, `yes` is text, no key comes twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the name and kind that PyYAML looks for)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands here twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def read_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def read_float(self, node: yaml.ScalarNode) -> float:
        return float(self.construct_scalar(node))


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
for _kind, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(f"{_TAG}int", _Loader.read_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.read_float)


def read(source: str, *, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The raw spec in a file, or on standard input for `-`, with each `path=value` of `settings` put in.

    Raises:
        InvalidRequest: the file cannot be read, or a setting does not fit the spec.
        InvalidSpec: a setting names a field that no spec has.
    """
    return apply(document(source, what="a job spec", hint="Write fields such as 'dataset:' and 'teacher:'."), settings)


def changes(before: dict[str, Any], *, source: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """A merge patch over the spec `before`: what stands in the file, with each `path=value` of `settings` put in.

    A patch cannot reach into a list, so a setting that does takes the whole list along.

    Raises:
        InvalidRequest: the file cannot be read, or a setting does not fit the spec.
        InvalidSpec: a setting names a field that no spec has.
    """
    hint = "Write the fields to change, as 'training: {epochs: 20}'."
    patch = {} if source is None else document(source, what="changes", hint=hint)
    after, given = _merged(before, patch), [_parsed(setting) for setting in settings]
    for path, value in given:
        if value is None and not _holds(after, path):
            raise InvalidRequest(
                f"'--set {path}=null': the spec has no '{path}' that could have its default again.",
                hint="`distillery show JOB --json` shows every field of the spec.",
            )
        _put(after, path, value)
        _put(patch, *_outside_lists(after, path))
    # A null may stand for a field that the kind that is chosen now does not have.
    _refuse_unknown(after, [path for path, value in given if value is not None])
    return patch


def _holds(document: Any, path: str) -> bool:
    first, _, rest = path.partition(".")
    if not rest or not isinstance(document, dict):
        return isinstance(document, list) or (isinstance(document, dict) and first in document)
    return _holds(document.get(first), rest)


def _outside_lists(document: dict[str, Any], path: str) -> tuple[str, Any]:
    """The path as far as the first list on it, and what stands there."""
    here: Any = document
    place: list[str] = []
    for part in path.split("."):
        if isinstance(here, list):
            break
        here = here[part]
        place.append(part)
    return ".".join(place), here


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7396, except that null stays: only the service knows the default that it stands for."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    kept = before if isinstance(before, dict) else {}
    return copy.deepcopy(kept) | {name: _merged(kept.get(name), value) for name, value in patch.items()}


def document(source: str, *, what: str, hint: str) -> dict[str, Any]:
    """The fields in a file of YAML or JSON, or on standard input for `-`.

    Raises:
        InvalidRequest: it cannot be read, or holds something else than `what`.
    """
    text = _text(source)
    name = "standard input" if source == STDIN else source
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader that knows fewer types)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{name} is neither YAML nor JSON: {_where(error)}", hint="Mend that line.") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise InvalidRequest(f"{name} holds {found} instead of {what}.", hint=hint)
    return document


def apply(document: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Put each `path=value` into the spec, in order; a path is dotted, with numbers for places in a list."""
    given = put(document, settings)
    _refuse_unknown(document, [path for path, _ in given])
    return document


def put(document: dict[str, Any], settings: Sequence[str]) -> list[tuple[str, Any]]:
    """The same for any document, whose fields are judged elsewhere; gives each path with its value."""
    given = [_parsed(setting) for setting in settings]
    for path, value in given:
        _put(document, path, value)
    return given


def _parsed(setting: str) -> tuple[str, Any]:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise InvalidRequest(
            f"'--set {setting}' is not of the form path=value.", hint="For instance: --set training.epochs=20"
        )
    return path, _value(value, setting=setting)


def _text(source: str) -> str:
    try:
        return sys.stdin.read() if source == STDIN else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"The job file '{source}' cannot be read: {error.strerror}.",
            hint="Give a YAML or JSON file, or - for standard input.",
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"'{source}' is not text in UTF-8.", hint="Give a YAML or JSON file.") from None


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}."
    return f"{error}."


def _value(text: str, *, setting: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader that knows fewer types)
    except yaml.YAMLError as error:
        raise InvalidRequest(
            f"The value of '--set {setting}' cannot be read: {_where(error)}",
            hint="Quote it, as in --set name='\"a: b\"'",
        ) from None


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    here: Any = document
    *parents, last = path.split(".")
    for depth, part in enumerate(parents):
        at = ".".join(parents[: depth + 1])
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[_place(here, part, at=at, path=path)]
    here[_place(here, last, at=path, path=path)] = value


def _place(here: Any, part: str, *, at: str, path: str) -> str | int:
    """The key or index that `part` means in `here`."""
    if isinstance(here, dict):
        return part
    parent = at.rpartition(".")[0]
    if not isinstance(here, list):
        raise InvalidRequest(
            f"'--set {path}': '{parent}' is {here!r} and has no field '{part}'.",
            hint=f"Set '{parent}' itself, as in --set '{parent}={{{part}: ...}}'",
        )
    if not (part.isascii() and part.isdigit() and int(part) < len(here)):
        raise InvalidRequest(
            f"'--set {path}': '{parent}' is a list of {len(here)}, and '{part}' is no place in it.",
            hint=f"Use a number from 0 to {len(here) - 1}." if here else f"Set the whole list '{parent}'.",
        )
    return int(part)


def _refuse_unknown(document: dict[str, Any], paths: Sequence[str]) -> None:
    """A mistyped path would make a new field; everything else about the spec is for the service to judge."""
    try:
        parse(document)
    except InvalidSpec as error:
        typed = {"/" + path.replace(".", "/"): path for path in paths}
        unknown = [
            FieldProblem(
                problem.pointer, problem.code, f"'--set {path}': no spec has the field '{name}'.", problem.hint
            )
            for problem in error.problems
            for pointer, path in typed.items()
            if problem.code == "UNKNOWN_FIELD" and f"{pointer}/".startswith(f"{problem.pointer}/")
            for name in [problem.pointer.rpartition("/")[2]]
        ]
        if unknown:
            raise InvalidSpec(unknown) from None
