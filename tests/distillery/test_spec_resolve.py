"""Resolving fills in what can be known, and is a fixed point of itself."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery import job_files
from distillery.errors import InvalidSpec
from distillery.spec import JobSpec, LatencySpec, parse, resolve
from distillery.spec.latency import RUNTIMES, RuntimeName
from distillery.spec.methods import Method
from distillery.spec.objectives import CrdTerm, CrossEntropyTerm, HintTerm, SoftTargetsTerm, Term
from distillery.spec.presets import PRESETS, PresetName

SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
GIVEN: dict[str, Any] = {"architecture": "seed_teacher", "weights": "teacher.safetensors"}
PER_STRATEGY: dict[str, dict[str, Any]] = {
    "offline": {"assistants": [{"architecture": "resnet20"}, {"architecture": "resnet8", "train": {"epochs": 3}}]},
    "online": {"teacher": [{"architecture": "resnet20"}, {"architecture": "resnet8"}]},
    "self_distillation": {"teacher": None},
    "data_free": {"teacher": {"members": [GIVEN, GIVEN], "merge": "mean_probabilities"}},
}
"""What each strategy asks for besides its name."""


def of_strategy(strategy: str) -> dict[str, Any]:
    """A spec with this strategy, as one would write it."""
    return SMALLEST | PER_STRATEGY[strategy] | {"method": {"strategy": strategy}}


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


def test_every_strategy_has_an_example_here() -> None:
    assert set(PER_STRATEGY) == {kind.model_fields["strategy"].default for kind in get_args(get_args(Method)[0])}


@pytest.mark.parametrize("strategy", PER_STRATEGY)
@pytest.mark.parametrize("written", [json.dumps, yaml.safe_dump], ids=["JSON", "YAML"])
def test_a_resolved_spec_of_any_strategy_is_a_fixed_point_and_survives_a_file(
    strategy: str, written: Any, tmp_path: Path
) -> None:
    sent = parse(of_strategy(strategy))
    resolved = resolve(sent)
    assert resolve(resolved) == resolved
    for spec in (sent, resolved):
        file = tmp_path / "job.yaml"
        file.write_text(written(spec.model_dump(mode="json")))
        again = parse(job_files.read(str(file)))
        assert again == spec
        assert spec is sent or resolve(again) == resolved


def test_the_preset_is_spelled_out() -> None:
    resolved = resolve(parse(SMALLEST | {"method": {"preset": "kd"}}))
    assert resolved.method.preset is None
    assert resolved.method.objective == (CrossEntropyTerm(weight=0.1), SoftTargetsTerm(weight=0.9, temperature=4.0))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_means_nothing_that_a_list_could_not_say(preset: str) -> None:
    resolved = resolve(parse(SMALLEST | {"method": {"preset": preset}, "training": {"seed": 0}}))
    listed = {"objective": [term.model_dump(mode="json") for term in PRESETS[preset]]}
    assert resolve(parse(SMALLEST | {"method": listed, "training": {"seed": 0}})) == resolved


def test_of_a_term_in_several_presets_the_first_is_taken() -> None:
    for names in (["kd", "fitnet", "crd"], ["kd", "fitnet", "fitnet", "crd", "kd"]):
        terms = resolve(parse(SMALLEST | {"method": {"preset": names}})).method.objective
        assert terms == (CrossEntropyTerm(weight=0.1), SoftTargetsTerm(), HintTerm(), CrdTerm())
    terms = resolve(parse(SMALLEST | {"method": {"preset": ["fitnet", "kd"]}})).method.objective
    assert terms == (CrossEntropyTerm(weight=1.0), HintTerm(), SoftTargetsTerm())


def test_without_a_method_it_is_kd() -> None:
    assert resolve(parse(SMALLEST)).method.objective == PRESETS["kd"]


def test_every_preset_is_a_choice_and_every_choice_a_preset() -> None:
    assert set(get_args(PresetName)) == set(PRESETS)


def test_every_term_but_the_labels_is_in_a_preset() -> None:
    assert {term.term for terms in PRESETS.values() for term in terms} == {
        kind.model_fields["term"].default for kind in get_args(get_args(Term)[0])
    }


def test_a_bare_list_of_teachers_is_an_ensemble() -> None:
    teacher = SMALLEST["teacher"]
    bare, written_out = (parse(SMALLEST | {"teacher": each}) for each in ([teacher] * 3, {"members": [teacher] * 3}))
    assert bare == written_out
    assert bare.teacher.merge == "mean_logits"
    assert len(bare.teachers) == 3
    assert bare.teacher_pointers == ("/teacher/members/0", "/teacher/members/1", "/teacher/members/2")


def test_the_teachers_are_told_with_their_places() -> None:
    assert (len(parse(SMALLEST).teachers), parse(SMALLEST).teacher_pointers) == (1, ("/teacher",))
    alone = parse(of_strategy("self_distillation"))
    assert (alone.teachers, alone.teacher_pointers) == ((), ())


def test_every_teacher_and_assistant_takes_what_its_recipe_lacks_from_the_students() -> None:
    members = [SMALLEST["teacher"], {"architecture": "resnet20", "train": {"epochs": 3, "batch_size": 8}}, GIVEN]
    sent = SMALLEST | PER_STRATEGY["offline"] | {"teacher": members, "training": {"epochs": 7, "batch_size": 32}}
    resolved = resolve(parse(sent))
    own = [each.train for each in (*resolved.teachers, *resolved.assistants)]
    assert [each and (each.epochs, each.batch_size) for each in own] == [(2, 32), (3, 8), None, (7, 32), (3, 32)]
    assert all(each.optimizer == resolved.training.optimizer for each in own if each)


def test_a_data_free_job_has_no_baseline_once_resolved() -> None:
    assert {strategy: resolve(parse(of_strategy(strategy))).baseline for strategy in PER_STRATEGY} == {
        "offline": True, "online": True, "self_distillation": True, "data_free": False,
    }  # fmt: skip


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


def test_every_runtime_term_and_strategy_says_when_to_use_it() -> None:
    assert set(RUNTIMES) == set(get_args(RuntimeName))
    for kind in (*get_args(get_args(Term)[0]), *get_args(get_args(Method)[0])):
        assert kind.when_to_use.endswith(".")
        assert "arXiv:" in kind.paper or kind is CrossEntropyTerm


WORDS = st.sampled_from([*PER_STRATEGY, *PRESETS, "mean_logits", "confidence", "fast", "dafl"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [*sorted(JobSpec.model_fields), "nam", "trainings"]
INNER = [
    "architecture", "epochs", "kind", "members", "merge", "name", "objective", "path", "preset", "rounds", "seed",
    "strategy", "synthesis", "train",
]  # fmt: skip


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
        resolved = resolve(spec)
        assert resolve(resolved) == resolved == parse(json.loads(resolved.model_dump_json()))


@given(st.integers(min_value=-5, max_value=5000))
def test_a_batch_size_is_accepted_exactly_within_its_bounds(size: int) -> None:
    try:
        LatencySpec(batch_sizes=(size,))
    except ValueError:
        assert not 1 <= size <= 4096
    else:
        assert 1 <= size <= 4096
