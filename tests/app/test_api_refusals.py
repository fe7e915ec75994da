"""What a well-formed spec is refused for: networks, weights, layers and references, of each teacher and assistant."""

import time
from typing import Any

import pytest

from app import layers
from models import catalog

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
JOB, MODEL = "job_" + "0" * 26, "mdl_" + "0" * 26


def trained(architecture: str, **more: Any) -> dict[str, Any]:
    """A teacher trained in the job."""
    return {"architecture": architecture, "train": {"epochs": 1}, **more}


def refusals(live: Any, check_problem: Any, **changes: Any) -> list[tuple[str, str, str]]:
    """Pointer, code and hint of each fault of the spec with these fields changed; both ways of asking agree."""
    told = [
        [(each.pointer, each.code, each.hint) for each in problem.errors]
        for path in ("/v1/jobs", "/v1/jobs:validate")
        for problem in [check_problem(live.http.post(path, json=SPEC | changes), 422, "INVALID_SPEC")]
    ]
    assert told[0] == told[1]
    return told[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"teacher": [trained("resnet20"), trained("resnet21")], "student": {"architecture": "seed_studnt"}},
            [("/teacher/members/1/architecture", "UNKNOWN_NAME"), ("/student/architecture", "UNKNOWN_NAME")],
        ),
        (
            {"assistants": [{"architecture": "resnet20"}, {"architecture": "rsnet14"}]},
            [("/assistants/1/architecture", "UNKNOWN_NAME")],
        ),
        (
            {"teacher": [trained("resnet20"), trained("torchvision/alexnet")]},
            [("/dataset/image_size", "IMAGES_TOO_SMALL")],
        ),
        ({"assistants": [{"architecture": "torchvision/alexnet"}]}, [("/dataset/image_size", "IMAGES_TOO_SMALL")]),
        (
            {"teacher": [{"architecture": "resnet20", "weights": "torchvision:DEFAULT"}, trained("resnet20")]},
            [("/teacher/members/0/weights", "UNUSABLE_WEIGHTS")],
        ),
        (
            {"teacher": [{"architecture": "resnet20", "job": JOB}, {"architecture": "resnet20", "model": MODEL}]},
            [("/teacher/members/0/job", "NOT_FOUND"), ("/teacher/members/1/model", "NOT_FOUND")],
        ),
        (
            {
                "method": {"strategy": "data_free"},
                "teacher": [
                    {"architecture": "resnet20", "weights": "x.safetensors"}, {"architecture": "resnet20", "job": JOB},
                ],
            },
            [("/teacher/members/1/job", "NOT_FOUND")],
        ),
    ],
)  # fmt: skip
def test_each_network_is_looked_at(
    live: Any, check_problem: Any, changes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert [each[:2] for each in refusals(live, check_problem, **changes)] == expected


def hint(*pairs: tuple[str, str], term: str = "hint", **method: Any) -> dict[str, Any]:
    """A method with explicit pairs, in its second term."""
    listed = [{"student": student, "teacher": teacher} for student, teacher in pairs]
    return {"objective": [{"term": "cross_entropy"}, {"term": term, "pairs": listed}], **method}


RESNETS = {"teacher": trained("resnet20"), "student": {"architecture": "resnet8"}}
PAIRS = "/method/objective/1/pairs"


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"method": hint(("layer4", "layer3"))}, [f"{PAIRS}/0/student"]),
        ({"method": hint(("layer1", "layer1"), ("layer2", "layer2.9"))}, [f"{PAIRS}/1/teacher"]),
        ({"method": hint(("stem", "head"), term="review")}, [f"{PAIRS}/0/student", f"{PAIRS}/0/teacher"]),
        (
            {"method": hint(("layer3", "features.14")), "teacher": [trained("seed_teacher"), trained("resnet20")]},
            [f"{PAIRS}/0/teacher"],
        ),
        # An assistant learns by the pairs, and teaches by them.
        ({"method": hint(("layer3", "layer3")), "assistants": [{"architecture": "resnet14"}]}, []),
        (
            {"method": hint(("layer3", "layer3")), "assistants": [{"architecture": "seed_student"}]},
            [f"{PAIRS}/0/student", f"{PAIRS}/0/teacher"],
        ),
        # Peers learn from each other, unless the teachers learn from the labels alone.
        (
            {
                "method": hint(("layer3", "features.14"), strategy="online"),
                "teacher": {"architecture": "seed_teacher"},
            },
            [f"{PAIRS}/0/student", f"{PAIRS}/0/teacher"],
        ),
        (
            {
                "method": hint(("layer3", "features.14"), strategy="online", mutual=False),
                "teacher": {"architecture": "seed_teacher"},
            },
            [],
        ),
    ],
)
def test_a_layer_that_is_not_there_is_refused(
    live: Any, check_problem: Any, changes: dict[str, Any], pointers: list[str]
) -> None:
    changes = RESNETS | changes
    if not pointers:
        answer = live.http.post("/v1/jobs:validate", json=SPEC | changes)
        assert answer.status_code == 200, answer.text
        return
    told = refusals(live, check_problem, **changes)
    assert [each[:2] for each in told] == [(pointer, "UNKNOWN_LAYER") for pointer in pointers]
    assert all("Its stages end at" in each[2] and "'embedding'" in each[2] for each in told)


def test_the_nearest_layers_are_named(live: Any, check_problem: Any) -> None:
    ((_, _, mend),) = refusals(live, check_problem, **RESNETS | {"method": hint(("layer1.0.conv3", "embedding"))})
    assert mend == (
        "Did you mean 'layer1.0.conv2' or 'layer1.0.conv1' or 'layer3.0.conv2'? Its stages end at layer1, layer2, "
        "layer3; 'embedding' is what its classifier reads."
    )
    ((_, _, mend),) = refusals(live, check_problem, **RESNETS | {"method": hint(("embeding", "layer1"))})
    assert mend.startswith("Did you mean 'embedding'?")


def test_an_unknown_network_is_not_asked_for_its_layers(live: Any, check_problem: Any) -> None:
    told = refusals(live, check_problem, teacher=trained("resnet21"), method=hint(("features.8", "layer9")))
    assert [each[:2] for each in told] == [("/teacher/architecture", "UNKNOWN_NAME")]


@pytest.mark.parametrize("row", catalog.ROWS[::9], ids=lambda row: row.name)
def test_the_stages_and_the_embedding_of_every_network_are_layers(live: Any, row: catalog.Row) -> None:
    pairs = hint(*((layer, layer) for layer in (*row.stages, layers.EMBEDDING)))
    spec = {
        "dataset": {"kind": "image_folder", "path": "flowers", "image_size": row.input[1]},
        "teacher": trained(row.name), "student": {"architecture": row.name}, "method": pairs,
    }  # fmt: skip
    answer = live.http.post("/v1/jobs:validate", json=spec)
    assert answer.status_code == 200, answer.text


def test_a_hostile_list_of_layers_is_refused_soon_and_shortly(live: Any, check_problem: Any) -> None:
    terms = ("hint", "attention_transfer", "similarity", "relational", "vid", "crd", "review")
    many = [{"student": f"features.7.{place}.block.9", "teacher": f"blocks.{place}" * 14} for place in range(32)]
    method = {"objective": [{"term": term, "pairs": many} for term in terms]}
    large = "torchvision/efficientnet_v2_l"
    spec = SPEC | {"dataset": {"name": "digits", "image_size": 480}, "student": {"architecture": large}}
    before = time.monotonic()
    answer = live.http.post("/v1/jobs", json=spec | {"teacher": [trained(large)] * 16, "method": method})
    problem = check_problem(answer, 422, "INVALID_SPEC")
    assert len(problem.errors) == layers.MOST_TOLD
    assert time.monotonic() - before < 30
