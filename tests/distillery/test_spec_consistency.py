"""What no single field is wrong about: each contradiction is told with its place, its code and its mend."""

from typing import Any

import pytest

from distillery.errors import FieldProblem, InvalidSpec
from distillery.spec import JobSpec, parse

TRAINED = {"architecture": "seed_teacher", "train": {"epochs": 2}}
GIVEN = {"architecture": "seed_teacher", "weights": "teacher.safetensors"}
BARE = {"architecture": "seed_teacher"}
SMALLEST: dict[str, Any] = {
    "dataset": {"name": "digits"}, "teacher": TRAINED, "student": {"architecture": "seed_student"},
}  # fmt: skip
NOBODY = {name: value for name, value in SMALLEST.items() if name != "teacher"}
ONLINE, ITSELF, FREE = ({"strategy": name} for name in ("online", "self_distillation", "data_free"))


def problems(spec: dict[str, Any]) -> list[FieldProblem]:
    """The problems of a spec that must have some."""
    with pytest.raises(InvalidSpec) as refused:
        parse(spec)
    return list(refused.value.problems)


def free(**method: Any) -> dict[str, Any]:
    """A data-free job that is right but for its method."""
    return SMALLEST | {"teacher": GIVEN, "method": FREE | method}


COMPILED = {"training": {"compile": "on"}}

FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    (NOBODY | {"method": ITSELF} | COMPILED, "/training/compile", "NOT_COMPILABLE", "'auto' or 'off'"),
    (
        SMALLEST | {"method": {"objective": [{"term": "hint"}]}} | COMPILED,
        "/training/compile",
        "NOT_COMPILABLE",
        "'auto' or 'off'",
    ),
    (NOBODY, "/teacher", "MISSING", "{architecture: resnet56, train: {epochs: 20}}"),
    (SMALLEST | {"teacher": None}, "/teacher", "MISSING", "Add 'teacher'"),
    (NOBODY | {"method": ONLINE}, "/teacher", "MISSING", "such as {architecture: resnet56}."),
    (NOBODY | {"method": FREE}, "/teacher", "MISSING", "weights: resnet56.safetensors"),
    (SMALLEST | {"method": ITSELF}, "/teacher", "TEACHER_NOT_USED", "Leave 'teacher' out, or choose"),
    (SMALLEST | {"method": ITSELF, "teacher": BARE}, "/teacher", "TEACHER_NOT_USED", "Leave 'teacher' out"),
    (SMALLEST | {"teacher": BARE}, "/teacher", "VALUE_ERROR", "Add 'train: {epochs: 20}'"),
    (SMALLEST | {"teacher": [TRAINED, BARE]}, "/teacher/1", "VALUE_ERROR", "Add 'train: {epochs: 20}'"),
    (SMALLEST | {"teacher": {"members": [BARE, GIVEN]}}, "/teacher/members/0", "VALUE_ERROR", "Add 'train"),
    (SMALLEST | {"teacher": GIVEN | {"train": {"epochs": 1}}}, "/teacher", "VALUE_ERROR", "Leave all but one out."),
    (SMALLEST | {"method": ONLINE}, "/teacher/train", "SOURCE_NOT_USED", "Leave it out, or use offline."),
    (SMALLEST | {"method": ONLINE, "teacher": [BARE, GIVEN]}, "/teacher/1/weights", "SOURCE_NOT_USED", "Leave it out"),
    (SMALLEST | {"method": FREE}, "/teacher/train", "READS_DATA", "name that as 'job'"),
    (SMALLEST | {"method": FREE, "teacher": [GIVEN, TRAINED]}, "/teacher/1/train", "READS_DATA", "name that as 'job'"),
    (SMALLEST | {"method": FREE, "teacher": BARE}, "/teacher", "VALUE_ERROR", "a file of 'weights'"),
    (
        SMALLEST | {"method": FREE, "teacher": {"members": [GIVEN, GIVEN], "merge": "confidence"}},
        "/teacher/merge",
        "NO_LABELS",
        "mean_probabilities",
    ),
    (free(objective=[{"term": "crd"}]), "/method/objective/0", "NO_SAMPLE_IDS", "Use soft_targets"),
    (
        free(objective=[{"term": "soft_targets"}, {"term": "cross_entropy"}]),
        "/method/objective/1",
        "NO_LABELS",
        "Use soft_targets",
    ),
    (free(objective=[{"term": "dkd"}]), "/method/objective/0", "NO_LABELS", "Use soft_targets, dist"),
    (free(objective=[]), "/method", "VALUE_ERROR", "Add the term soft_targets."),
    (
        SMALLEST | {"method": ONLINE | {"objective": [{"term": "soft_targets"}]}, "teacher": BARE},
        "/method",
        "VALUE_ERROR",
        "Add the term cross_entropy",
    ),
    (
        SMALLEST | {"method": ONLINE | {"objective": [{"term": "dist"}, {"term": "cross_entropy", "weight": 0}]}},
        "/method",
        "VALUE_ERROR",
        "with a weight above 0",
    ),
    (NOBODY | {"method": ITSELF | {"hard_weight": 0}}, "/method", "VALUE_ERROR", "such as 0.9"),
    (SMALLEST | {"method": ONLINE | {"preset": "kd"}, "teacher": BARE}, "/method/preset", "UNKNOWN_FIELD", "Known:"),
    (
        NOBODY | {"method": ITSELF, "assistants": [{"architecture": "resnet20"}]},
        "/assistants",
        "ASSISTANTS_NOT_USED",
        "or use offline",
    ),
    (
        free() | {"assistants": [{"architecture": "resnet20"}]},
        "/assistants",
        "ASSISTANTS_NOT_USED",
        "Leave 'assistants' out",
    ),
    *(
        (
            SMALLEST | {"method": {"preset": preset}, "training": {"batch_size": needed - 1}},
            "/training/batch_size",
            "BATCH_TOO_SMALL",
            f"{needed} or more; 64 is usual.",
        )
        for preset, needed in (("dist", 2), ("sp", 2), ("rkd", 3), (["dist", "rkd"], 3))
    ),
    (free() | {"export": ["onnx", "onnx-int8"]}, "/export/1", "READS_DATA", "Leave 'onnx-int8' out."),
    (
        free() | {"latency": {"runtimes": ["openvino-int8"]}},
        "/latency/runtimes/0",
        "READS_DATA",
        "Leave 'openvino-int8' out.",
    ),
    (
        SMALLEST | {"training": {"seed": 2**32 - 3}, "seeds": 4},
        "/training/seed",
        "SEEDS_OVERFLOW",
        f"Use a seed of {2**32 - 4} or less.",
    ),
]


@pytest.mark.parametrize(("spec", "pointer", "code", "hint"), FAULTS)
def test_a_contradiction_is_told_with_its_place_and_its_mend(
    spec: dict[str, Any], pointer: str, code: str, hint: str
) -> None:
    found = problems(spec)
    assert [(each.pointer, each.code) for each in found] == [(pointer, code)]
    assert hint in found[0].hint
    assert found[0].detail.endswith(".")
    assert "{" not in found[0].detail


@pytest.mark.parametrize(
    "spec",
    [
        NOBODY | {"method": ITSELF},
        SMALLEST | {"method": ONLINE, "teacher": BARE},
        SMALLEST | {"method": ONLINE, "teacher": [BARE, BARE], "seeds": 20},
        free(),
        free(objective=[{"term": "dist"}, {"term": "hint"}], synthesis="dafl"),
        SMALLEST | {"assistants": [{"architecture": "resnet20"}, {"architecture": "resnet8"}]},
        SMALLEST | {"teacher": {"members": [TRAINED, GIVEN], "merge": "confidence"}},
        SMALLEST | {"method": {"preset": "rkd"}, "training": {"batch_size": 3}},
        SMALLEST | {"training": {"seed": 2**32 - 4}, "seeds": 4},
    ],
)
def test_what_goes_together_is_accepted(spec: dict[str, Any]) -> None:
    assert isinstance(parse(spec), JobSpec)


def test_every_contradiction_is_told_at_once() -> None:
    found = problems(
        SMALLEST
        | {
            "method": FREE | {"objective": [{"term": "crd"}, {"term": "relational"}]},
            "assistants": [{"architecture": "resnet20"}],
            "teacher": [TRAINED, BARE],
            "training": {"batch_size": 2, "seed": 2**32 - 1},
            "seeds": 2,
        }
    )
    assert {each.pointer for each in found} == {
        "/method/objective/0", "/assistants", "/teacher/0/train", "/teacher/1", "/training/batch_size",
        "/training/seed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "pointer", "hint"),
    [
        ("teacher", [TRAINED], "/teacher", "Give 2 or more items."),
        ("teacher", [], "/teacher", "Give 2 or more items."),
        ("teacher", [TRAINED, {"architecture": "x", "train": {"epochs": 0}}], "/teacher/1/train/epochs", "Use 1 or"),
        ("teacher", [TRAINED, {}], "/teacher/1/architecture", "Add this field."),
        ("teacher", [TRAINED, "resnet20"], "/teacher/1", "Write named fields"),
        ("teacher", {"merge": "mean_logits"}, "/teacher/members", "Add this field."),
        ("teacher", {"members": TRAINED}, "/teacher/members", "list"),
        (
            "teacher",
            {"members": [TRAINED, TRAINED], "merge": "mean_logit"},
            "/teacher/merge",
            "Did you mean 'mean_logits'?",
        ),
        ("teacher", {"members": [TRAINED, TRAINED], "train": {}}, "/teacher/train", "Known: members, merge."),
        ("teacher", 5, "/teacher", "Write named fields"),
        ("assistants", {"architecture": "resnet20"}, "/assistants", "list"),
        ("assistants", [{"architecture": "resnet20", "weights": "x"}], "/assistants/0/weights", "Known: architecture"),
        ("assistants", [{"train": {"epochs": 2}}], "/assistants/0/architecture", "Add this field."),
        ("method", {"strategy": "onlin"}, "/method/strategy", "Did you mean 'online'?"),
        ("method", {"preset": []}, "/method/preset", "Give 1 or more items."),
        ("method", {"preset": ["kd", "kdd"]}, "/method/preset/1", "Did you mean 'kd'?"),
        ("method", {"preset": {"name": "kd"}}, "/method/preset", "Use 'kd'"),
        ("method", {"objective": [{"term": "hint", "pairs": "mid"}]}, "/method/objective/0/pairs", "'middle'?"),
        ("method", {"objective": [{"term": "hint", "pairs": {"student": "a"}}]}, "/method/objective/0/pairs", "list"),
        ("method", {"objective": [{"term": "vid", "pairs": 3}]}, "/method/objective/0/pairs", "list"),
        (
            "method",
            {"objective": [{"term": "hint", "pairs": [{"student": "a", "techer": "b"}]}]},
            "/method/objective/0/pairs/0/teacher",
            "Add this field.",
        ),
        ("method", FREE | {"synthesis": "fats"}, "/method/synthesis", "Did you mean 'fast'?"),
        ("method", FREE | {"synthesis": {"name": "dafl", "pool": 99}}, "/method/synthesis/pool", "Known:"),
    ],
)
def test_a_choice_of_forms_is_told_without_the_names_that_only_pydantic_knows(
    field: str, value: Any, pointer: str, hint: str
) -> None:
    found = problems(SMALLEST | {field: value})
    assert found[0].pointer == pointer
    assert hint in found[0].hint
