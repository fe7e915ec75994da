"""Every number, text and list of a spec has bounds, and just beyond each of them the spec is refused."""

import copy
import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from distillery.errors import InvalidSpec
from distillery.spec import JobSpec, LatencySpec, parse
from distillery.spec.objectives import AnyTerm

SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
TERMS: tuple[str, ...] = tuple(kind.model_fields["term"].default for kind in get_args(AnyTerm))
PLACE = {term: place for place, term in enumerate(TERMS)}
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
    "method": {"objective": [{"term": term} for term in TERMS]},
    "assistants": [{"architecture": "resnet20", "train": {"epochs": 2}}],
    "seeds": 1,
    "training": {"seed": 1, "threads": 2, "clip_grad_norm": 1.0, "schedule": {"name": "step"}},
    "labels": {"team": "vision"},
}
ONLINE: dict[str, Any] = SMALLEST | {"teacher": {"architecture": "seed_teacher"}, "method": {"strategy": "online"}}
ITSELF: dict[str, Any] = {
    "dataset": {"name": "digits"}, "student": {"architecture": "seed_student"},
    "method": {"strategy": "self_distillation"},
}  # fmt: skip
GIVEN: dict[str, Any] = {"architecture": "seed_teacher", "weights": "teacher.safetensors"}
FAST: dict[str, Any] = SMALLEST | {
    "teacher": [GIVEN, GIVEN], "method": {"strategy": "data_free", "synthesis": {"name": "fast"}},
}  # fmt: skip
DAFL: dict[str, Any] = SMALLEST | {
    "teacher": GIVEN, "method": {"strategy": "data_free", "synthesis": {"name": "dafl"}},
}  # fmt: skip
# Without the terms that compare the samples of a batch.
SMALL_BATCH: dict[str, Any] = FULL | {"method": {"preset": "kd"}}
EXAMPLES = {"full": FULL, "online": ONLINE, "itself": ITSELF, "fast": FAST, "dafl": DAFL}


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


@pytest.mark.parametrize("spec", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_are_accepted(spec: dict[str, Any]) -> None:
    assert parse(spec).method.strategy == spec.get("method", {}).get("strategy", "offline")


def test_the_full_spec_has_every_term() -> None:
    assert [term.term for term in parse(FULL).method.terms] == list(TERMS)


def term(name: str, field: str) -> tuple[str | int, ...]:
    """The path of a term's field in the full spec."""
    return ("method", "objective", PLACE[name], field)


@pytest.mark.parametrize(
    ("path", "lowest", "highest"),
    [
        *((term(name, "weight"), 0, 100_000) for name in TERMS),
        *((term(name, "warmup_epochs"), 0, 10_000) for name in TERMS),
        (term("dkd", "target_weight"), 0, 100_000),
        (term("dkd", "non_target_weight"), 0, 100_000),
        (term("dist", "inter_weight"), 0, 100_000),
        (term("dist", "intra_weight"), 0, 100_000),
        (term("relational", "distance_weight"), 0, 100_000),
        (term("relational", "angle_weight"), 0, 100_000),
        (term("crd", "dimensions"), 2, 4096),
        (term("crd", "negatives"), 1, 1_000_000),
        (term("review", "channels"), 1, 4096),
        (("assistants", 0, "train", "epochs"), 1, 10_000),
        (("seeds",), 1, 20),
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
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_both_ends_of_a_range_are_in_it_and_beyond_is_refused(
    path: tuple[str | int, ...], lowest: int, highest: int
) -> None:
    assert_bounds(SMALL_BATCH if path == ("training", "batch_size") else FULL, path, lowest, highest)


@pytest.mark.parametrize(
    ("spec", "path", "lowest", "highest"),
    [
        (ITSELF, ("method", "hard_weight"), None, 100_000),
        (ITSELF, ("method", "soft_weight"), 0, 100_000),
        (ITSELF, ("method", "hint_weight"), 0, 100_000),
        (FAST, ("method", "steps_per_epoch"), 1, 1_000_000),
        (FAST, ("method", "synthesis", "latent"), 2, 4096),
        (FAST, ("method", "synthesis", "one_hot_weight"), 0, 100_000),
        (FAST, ("method", "synthesis", "batch_norm_weight"), 0, 100_000),
        (FAST, ("method", "synthesis", "adversarial_weight"), 0, 100_000),
        (FAST, ("method", "synthesis", "synthesis_steps"), 1, 1000),
        (FAST, ("method", "synthesis", "synthesis_batches"), 1, 1000),
        (FAST, ("method", "synthesis", "pool"), 16, 10_000_000),
        (FAST, ("method", "synthesis", "pool_warmup_epochs"), 0, 10_000),
        (DAFL, ("method", "synthesis", "activation_weight"), 0, 100_000),
        (DAFL, ("method", "synthesis", "information_entropy_weight"), 0, 100_000),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_so_are_the_ranges_of_every_strategy(
    spec: dict[str, Any], path: tuple[str | int, ...], lowest: int | None, highest: int
) -> None:
    assert_bounds(spec, path, lowest, highest)


def assert_bounds(spec: dict[str, Any], path: tuple[str | int, ...], lowest: int | None, highest: int) -> None:
    """Both ends are accepted, and beyond them nothing; the lower end is left out where it says something else."""
    beyond = [highest + 1, 10**400, -(10**400)]
    parse(with_value(spec, path, highest))
    if lowest is not None:
        parse(with_value(spec, path, lowest))
        beyond.append(lowest - 1)
    for value in beyond:
        with pytest.raises(InvalidSpec) as refused:
            parse(with_value(spec, path, value))
        assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, path))]
        assert refused.value.problems[0].hint


@pytest.mark.parametrize(
    ("spec", "path", "beyond"),
    [
        (FULL, term("soft_targets", "temperature"), 0),
        (FULL, term("dkd", "temperature"), 100.5),
        (FULL, term("dist", "temperature"), 0),
        (FULL, term("crd", "temperature"), 0.0005),
        (FULL, term("crd", "momentum"), 1),
        (FULL, term("vid", "initial_variance"), 0),
        (FULL, term("cross_entropy", "label_smoothing"), 1),
        (ITSELF, ("method", "temperature"), 0),
        (ITSELF, ("method", "label_smoothing"), 1),
        (FAST, ("method", "synthesis", "generator_lr"), 0),
        (FAST, ("method", "synthesis", "latent_lr"), 10.5),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_open_end_of_a_range_is_not_in_it(spec: dict[str, Any], path: tuple[str | int, ...], beyond: float) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(with_value(spec, path, beyond))
    assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, path))]


@pytest.mark.parametrize(
    ("spec", "path", "fewest", "most"),
    [
        (SMALLEST | {"teacher": {"members": [GIVEN]}}, ("teacher", "members"), 2, 16),
        (FULL, ("assistants",), 0, 8),
        (FULL, (*term("hint", "pairs"),), 1, 32),
        (SMALLEST | {"method": {"preset": ["kd"]}}, ("method", "preset"), 1, 8),
    ],
    ids=["teachers", "assistants", "pairs", "presets"],
)
def test_a_list_is_neither_too_short_nor_too_long(
    spec: dict[str, Any], path: tuple[str | int, ...], fewest: int, most: int
) -> None:
    items = {"members": GIVEN, "assistants": {"architecture": "resnet20"}, "preset": "kd"}
    item = items.get(str(path[-1]), {"student": "layer1", "teacher": "layer1"})
    for count in (fewest, most):
        parse(with_value(spec, path, [item] * count))
    for count in {fewest - 1, most + 1} - {-1}:
        with pytest.raises(InvalidSpec) as refused:
            parse(with_value(spec, path, [item] * count))
        assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, path))]
        assert refused.value.problems[0].hint.startswith("Give")


@pytest.mark.parametrize("layer", ["layer1", "embedding", "features.8", "trunk_output.block1.block1-0", "a" * 200])
def test_a_layer_is_named_by_its_module_path(layer: str) -> None:
    pair = {"student": layer, "teacher": layer}
    assert parse(with_value(FULL, term("hint", "pairs"), [pair])).method.terms[PLACE["hint"]].pairs[0].student == layer


@pytest.mark.parametrize("layer", ["", ".", "layer1.", ".layer1", "a..b", "a b", "é", "a" * 201, "../x", "a\n", 5])
def test_nothing_else_is_a_layer(layer: Any) -> None:
    path = term("hint", "pairs")
    with pytest.raises(InvalidSpec) as refused:
        parse(with_value(FULL, path, [{"student": layer, "teacher": "layer1"}]))
    assert [problem.pointer for problem in refused.value.problems] == ["/" + "/".join(map(str, (*path, 0, "student")))]


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
