"""Resolving fills in what can be known, and is a fixed point of itself."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import InvalidSpec
from distillery.spec import JobSpec, LatencySpec, parse, resolve
from distillery.spec.benchmark import RUNTIMES, RuntimeName
from distillery.spec.objectives import PRESETS, CrossEntropyTerm, OfflineMethod, SoftTargetsTerm, Term

SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


def test_resolving_draws_a_seed_once_and_keeps_it() -> None:
    resolved = resolve(parse(SMALLEST))
    assert resolved.training.seed is not None
    assert resolve(resolved) == resolved
    assert parse(SMALLEST).training.seed is None


def test_a_seed_that_was_given_is_kept() -> None:
    assert resolve(parse(SMALLEST | {"training": {"seed": 7}})).training.seed == 7


def test_a_resolved_spec_survives_json_and_is_accepted_again() -> None:
    resolved = resolve(parse(SMALLEST | {"training": {"optimizer": "adamw", "schedule": "step"}}))
    again = parse(json.loads(resolved.model_dump_json()))
    assert again == resolved
    assert resolve(again) == resolved
    assert JobSpec.model_validate_json(resolved.model_dump_json()) == resolved


def test_the_preset_is_spelled_out() -> None:
    resolved = resolve(parse(SMALLEST | {"method": {"preset": "kd"}}))
    assert resolved.method.preset is None
    assert resolved.method.objective == (CrossEntropyTerm(weight=0.1), SoftTargetsTerm(weight=0.9, temperature=4.0))


def test_without_a_method_it_is_kd() -> None:
    assert resolve(parse(SMALLEST)).method.objective == PRESETS["kd"]


def test_every_preset_is_a_choice_and_every_choice_a_preset() -> None:
    choices = [
        choice for choice in get_args(OfflineMethod.model_fields["preset"].annotation) if choice is not type(None)
    ]
    assert set(get_args(choices[0])) == set(PRESETS)


def test_the_teachers_training_takes_what_it_lacks_from_the_students() -> None:
    sent = SMALLEST | {"training": {"batch_size": 32, "optimizer": {"name": "adamw", "lr": 0.002}}}
    own = resolve(parse(sent)).teacher.train
    assert own is not None
    assert (own.batch_size, own.optimizer, own.epochs) == (32, parse(sent).training.optimizer, 2)


def test_a_name_is_a_named_data_set_and_a_bare_word_an_optimizer() -> None:
    spec = parse(SMALLEST | {"training": {"optimizer": "adamw", "schedule": "constant"}})
    assert spec.dataset.kind == "named"
    assert (spec.training.optimizer.name, spec.training.schedule.name) == ("adamw", "constant")


def test_specs_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(SMALLEST).name = "other"  # type: ignore[misc] # the test is that this is refused


def test_every_runtime_and_term_says_when_to_use_it() -> None:
    assert set(RUNTIMES) == set(get_args(RuntimeName))
    for term in get_args(get_args(Term)[0]):
        assert term.when_to_use.endswith(".")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [*sorted(JobSpec.model_fields), "nam", "trainings"]
INNER = ["architecture", "epochs", "kind", "name", "objective", "path", "rounds", "seed", "strategy", "train"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.dictionaries(st.sampled_from(INNER), JSON, max_size=4)))
def test_whatever_is_sent_is_accepted_or_refused_with_a_place(changes: dict[str, Any]) -> None:
    try:
        spec = parse(SMALLEST | changes)
    except InvalidSpec as refused:
        assert refused.problems
        for problem in refused.problems:
            assert problem.pointer.startswith("/")
            problem.hint.encode()
            problem.detail.encode()
    else:
        assert parse(json.loads(spec.model_dump_json())) == spec


@given(st.integers(min_value=-5, max_value=5000))
def test_a_batch_size_is_accepted_exactly_within_its_bounds(size: int) -> None:
    try:
        LatencySpec(batch_sizes=(size,))
    except ValueError:
        assert not 1 <= size <= 4096
    else:
        assert 1 <= size <= 4096
