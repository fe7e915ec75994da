"""Every number, text and list of a spec has bounds, and just beyond each of them the spec is refused."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest

from distillery.errors import InvalidSpec
from distillery.spec import JobSpec, LatencySpec, parse

SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
# One spec for each choice, so that every field of every choice is reached.
FULL: dict[str, Any] = {
    **SMALLEST,
    "name": "x",
    "dataset": {"kind": "npz", "path": "x.npz", "image_size": 32, "limit": 100, "classes": ["a", "b"]},
    "teacher": {
        "architecture": "seed_teacher",
        "minimum_accuracy": 0.5,
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "clip_grad_norm": 1.0,
            "optimizer": {"name": "sgd"},
            "schedule": "step",
        },
    },
    "method": {
        "objective": [
            {"term": "cross_entropy", "weight": 0.1, "label_smoothing": 0.1},
            {"term": "soft_targets", "weight": 0.9, "temperature": 4},
        ]
    },
    "training": {"seed": 1, "threads": 2, "clip_grad_norm": 1.0, "schedule": {"name": "step"}},
    "labels": {"team": "vision"},
}


def with_value(spec: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of the spec with `value` at `path`."""
    changed = copy.deepcopy(spec)
    here: Any = changed
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return changed


def _leaves(schema: dict[str, Any], node: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "$ref" in node:
        yield from _leaves(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], where)
        return
    for choice in ("anyOf", "oneOf", "allOf"):
        for place, member in enumerate(node.get(choice, ())):
            yield from _leaves(schema, member, f"{where}<{place}>")
    for name, member in node.get("properties", {}).items():
        yield from _leaves(schema, member, f"{where}/{name}")
    for member in node.get("prefixItems", ()) or ([node["items"]] if isinstance(node.get("items"), dict) else []):
        yield from _leaves(schema, member, f"{where}/*")
    yield where, node


LEAVES = [
    pytest.param(node, id=f"{model.__name__}{where}")
    for model in (JobSpec, LatencySpec)
    for where, node in _leaves(model.model_json_schema(), model.model_json_schema(), "")
    if not {"const", "enum"} & set(node)
]


@pytest.mark.parametrize("node", LEAVES)
def test_everything_is_bounded(node: dict[str, Any]) -> None:
    keys = set(node)
    match node.get("type"):
        case "integer" | "number":
            assert keys & {"minimum", "exclusiveMinimum"}
            assert keys & {"maximum", "exclusiveMaximum"}
        case "string":
            assert keys & {"maxLength", "pattern"}
        case "array":
            assert "maxItems" in keys
        case "object" if "properties" not in keys:
            assert "maxProperties" in keys
        case "object":
            assert node["additionalProperties"] is False


def test_the_full_spec_is_accepted() -> None:
    assert parse(FULL).method.terms[1].weight == 0.9


@pytest.mark.parametrize(
    ("path", "lowest", "highest"),
    [
        (("dataset", "image_size"), 4, 1024),
        (("dataset", "split_seed"), 0, 2**32 - 1),
        (("dataset", "limit"), 10, 100_000_000),
        (("teacher", "minimum_accuracy"), 0, 1),
        (("teacher", "train", "epochs"), 1, 10_000),
        (("teacher", "train", "batch_size"), 1, 65_536),
        (("training", "epochs"), 1, 10_000),
        (("training", "batch_size"), 1, 65_536),
        (("training", "seed"), 0, 2**32 - 1),
        (("training", "threads"), 1, 1024),
        (("training", "keep"), 1, 100),
        (("training", "schedule", "warmup_epochs"), 0, 1000),
        (("method", "objective", 0, "weight"), 0, 10_000),
        (("method", "objective", 1, "weight"), 0, 10_000),
    ],
)
def test_both_ends_of_a_range_are_in_it_and_beyond_is_refused(
    path: tuple[str | int, ...], lowest: int, highest: int
) -> None:
    parse(with_value(FULL, path, lowest))
    parse(with_value(FULL, path, highest))
    for beyond in (lowest - 1, highest + 1, 10**400, -(10**400)):
        with pytest.raises(InvalidSpec) as refused:
            parse(with_value(FULL, path, beyond))
        assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, path))]
        assert refused.value.problems[0].hint


NUMBERS = [
    ("dataset", "validation"), ("dataset", "test"), ("dataset", "image_size"), ("teacher", "minimum_accuracy"),
    ("teacher", "train", "epochs"), ("teacher", "train", "clip_grad_norm"), ("method", "objective", 0, "weight"),
    ("method", "objective", 0, "label_smoothing"), ("method", "objective", 1, "temperature"), ("training", "epochs"),
    ("training", "clip_grad_norm"), ("training", "seed"), ("training", "schedule", "warmup_epochs"),
]  # fmt: skip


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "5", "", [], {}, [5]], ids=repr)
def test_only_a_finite_number_is_a_number(path: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(with_value(FULL, path, value))
    assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, path))]


@pytest.mark.parametrize("value", [0, 1, "yes", "true", None, []], ids=repr)
def test_only_true_and_false_are_true_and_false(value: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(SMALLEST | {"baseline": value})
    assert refused.value.problems[0].pointer == "/baseline"
    assert refused.value.problems[0].hint


@pytest.mark.parametrize("value", [True, 5, 1.5, [], {}, None], ids=repr)
def test_only_a_text_is_a_text(value: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(SMALLEST | {"name": value})
    assert refused.value.problems[0].pointer == "/name"


@pytest.mark.parametrize("value", [[True], ["1"], [1, True]], ids=repr)
def test_the_items_of_a_list_are_held_to_their_type(value: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(SMALLEST | {"latency": {"batch_sizes": value}})
    assert refused.value.problems[0].pointer == f"/latency/batch_sizes/{len(value) - 1}"
