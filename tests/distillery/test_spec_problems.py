"""What a refused spec is told: where the fault is, and how to mend it."""

from typing import Any

import pytest

from distillery.errors import FieldProblem, InvalidSpec
from distillery.spec import parse
from distillery.spec.frozen import MOST_PROBLEMS

SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


def problems(changes: Any) -> list[FieldProblem]:
    """The problems of the smallest spec with these fields changed; of `changes` itself when it is no object."""
    with pytest.raises(InvalidSpec) as refused:
        parse({**SMALLEST, **changes} if isinstance(changes, dict) else changes)
    return list(refused.value.problems)


@pytest.mark.parametrize(
    ("changes", "pointer", "hint"),
    [
        ({"nam": "x"}, "/nam", "Did you mean 'name'?"),
        ({"zzzz": 1}, "/zzzz", "Known: name, task, dataset"),
        ({"training": {"epoch": 3}}, "/training/epoch", "Did you mean 'epochs'?"),
        ({"training": {"optimizer": {"name": "sgd", "lr_rate": 1}}}, "/training/optimizer/lr_rate", "Known: name, lr"),
        ({"dataset": {"kind": "idx", "pth": "x"}}, "/dataset/path", "Add this field."),
        ({"dataset": {"kind": "imagefolder", "path": "x"}}, "/dataset/kind", "Did you mean 'image_folder'?"),
        ({"dataset": {"path": "x"}}, "/dataset", "Add the field 'kind'."),
        ({"dataset": "digits"}, "/dataset", "Write named fields"),
        ({"training": {"optimizer": "adm"}}, "/training/optimizer", "Did you mean 'adamw'?"),
        ({"training": {"optimizer": {"name": "adm"}}}, "/training/optimizer/name", "Did you mean 'adamw'?"),
        ({"training": {"schedule": "cosin"}}, "/training/schedule", "Did you mean 'cosine'?"),
        ({"training": {"precision": "bf61"}}, "/training/precision", "Did you mean 'bf16'?"),
        ({"training": {"epochs": 0}}, "/training/epochs", "Use 1 or more."),
        ({"training": {"epochs": 1.5}}, "/training/epochs", "Use a whole number."),
        ({"training": {"epochs": None}}, "/training/epochs", "Use a whole number."),
        (
            {"training": {"optimizer": {"name": "sgd", "weight_decay": "5e-4"}}},
            "/training/optimizer/weight_decay",
            "5.0e-4",
        ),
        ({"training": {"optimizer": {"name": "sgd", "momentum": 1}}}, "/training/optimizer/momentum", "below 1.0"),
        (
            {"training": {"optimizer": {"name": "adamw", "betas": [0.9]}}},
            "/training/optimizer/betas/1",
            "Add this field.",
        ),
        (
            {"training": {"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0}}},
            "/training/optimizer",
            "Give a momentum",
        ),
        ({"method": {"preset": "kdd"}}, "/method/preset", "Did you mean 'kd'?"),
        (
            {"method": {"preset": "kd", "objective": [{"term": "cross_entropy"}]}},
            "/method",
            "Leave one",
        ),
        (
            {"method": {"objective": [{"term": "soft_target"}]}},
            "/method/objective/0/term",
            "Did you mean 'soft_targets'?",
        ),
        (
            {"method": {"objective": [{"term": "soft_targets", "temprature": 2}]}},
            "/method/objective/0/temprature",
            "Did you mean 'temperature'?",
        ),
        ({"method": {"objective": [{"term": "cross_entropy", "weight": 0}]}}, "/method", "Give one a weight."),
        ({"method": {"objective": [{"term": "cross_entropy"}] * 2}}, "/method", "Merge the two."),
        ({"method": {"objective": {"term": "cross_entropy"}}}, "/method/objective", "list"),
        ({"teacher": {"architecture": "seed_teacher"}}, "/teacher", "Add 'train: {epochs: 20}'"),
        (
            {"teacher": {"architecture": "x", "train": {"epochs": 1}, "weights": "x.safetensors"}},
            "/teacher",
            "Leave all but one out.",
        ),
        ({"teacher": {"architecture": "x", "weights": "x.pth"}}, "/teacher", "Convert"),
        ({"teacher": {"architecture": "x", "job": "job_1"}}, "/teacher/job", "form of the pattern ^job_"),
        ({"student": {}}, "/student/architecture", "Add this field."),
        ({"export": ["onxx"]}, "/export/0", "Did you mean 'onnx'?"),
        ({"export": []}, "/export", "Give 1 or more items."),
        ({"export": "onnx"}, "/export", "list"),
        ({"latency": {"rounds": 29}}, "/latency/rounds", "Use 30 or more."),
        ({"latency": {"runtimes": ["eagr"]}}, "/latency/runtimes/0", "Did you mean 'eager'?"),
        ({"latency": {"scenarios": ["servr"]}}, "/latency/scenarios/0", "Did you mean 'server'?"),
        ({"latency": {"inputs": ["end-to-end"]}}, "/latency/inputs/0", "Did you mean 'end_to_end'?"),
        ({"labels": {"a b": "x"}}, "/labels/a b", "form of the pattern"),
        ({"labels": {"a/b~c": 5}}, "/labels/a~1b~0c", ""),
        ({"labels": {f"k{i}": "v" for i in range(65)}}, "/labels", "Give at most 64 items."),
        ({"name": "x" * 201}, "/name", "Use at most 200 characters."),
        ({"name": ""}, "/name", "Use 1 or more characters."),
        ({"name": "a\x00b"}, "/name", "Leave it out."),
        ({"labels": {"team": "a\x00"}}, "/labels/team", "Leave it out."),
        ({"name": "\ud800"}, "/name", "valid Unicode"),
        ({1: "x"}, "/1", "Put the key in quotes."),
        (None, "", "Write named fields"),
        ("x", "", "Write named fields"),
        ([], "", "Write named fields"),
    ],
)
def test_a_fault_is_told_with_its_place_and_its_mend(changes: Any, pointer: str, hint: str) -> None:
    found = problems(changes)
    assert found[0].pointer == pointer
    assert hint in found[0].hint
    assert found[0].detail.endswith((".", "?", "!", ")"))
    assert found[0].code.isupper()


def test_every_fault_is_told_at_once() -> None:
    found = problems({"nam": "x", "training": {"epochs": 0, "keep": 0}, "export": ["x", "y"]})
    assert {problem.pointer for problem in found} == {
        "/nam", "/training/epochs", "/training/keep", "/export/0", "/export/1",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["\ud800key", "a\x00b", "x" * 100_000, "</script>", "ä" * 300, "../../etc", "~/"])
def test_a_strange_field_name_comes_back_short_and_printable(name: str) -> None:
    (found,) = problems({name: 1})
    "".join([found.pointer, found.detail, found.hint]).encode()
    assert "\x00" not in found.pointer
    assert len(found.pointer) < 250


def test_a_deeply_nested_value_is_refused_where_it_stands() -> None:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    assert [problem.pointer for problem in problems({"training": nested})] == ["/training"]
    assert [problem.pointer for problem in problems({"name": nested})] == ["/name"]


@pytest.mark.parametrize(
    "changes",
    [
        {f"field{i}": 1 for i in range(50_000)},
        {"latency": {"batch_sizes": ["x"] * 50_000}},
        {"labels": {f"a b{i}": 5 for i in range(20_000)}},
        {"method": {"objective": [{"term": "x"}] * 20_000}},
    ],
    ids=["fields", "items", "labels", "terms"],
)
def test_a_hostile_spec_gets_a_short_answer(changes: dict[str, Any]) -> None:
    found = problems(changes)
    assert 1 <= len(found) <= MOST_PROBLEMS
    assert len(str(InvalidSpec(found))) < 100_000
