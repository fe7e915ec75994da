"""RFC 7396, by the test cases of its appendix A."""

from typing import Any

import pytest

from app.patches import merged


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
    ids=str,
)
def test_it_merges_as_the_standard_says(before: Any, patch: Any, after: Any) -> None:
    assert merged(before, patch) == after


@pytest.mark.parametrize(
    ("patch", "after"),
    [
        ({"momentum": 0.5}, {"name": "sgd", "lr": 0.2, "momentum": 0.5}),
        ({"name": "sgd"}, {"name": "sgd", "lr": 0.2, "momentum": 0.9}),
        ({"name": "adamw"}, {"name": "adamw", "lr": 0.2}),
        ({"name": "adamw", "lr": None}, {"name": "adamw"}),
    ],
    ids=str,
)
def test_defaults_of_the_kind_before_are_left_behind_and_what_was_sent_is_not(patch: Any, after: Any) -> None:
    before = {"optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9}}
    assert merged(before, {"optimizer": patch}, sent={"optimizer": {"name": "sgd", "lr": 0.2}}) == {"optimizer": after}
