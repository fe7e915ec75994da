"""Bad specs and bad requests: each gets its status, its code, the place of the fault and how to mend it."""

import copy
import json
from typing import Any

import pytest

JOB = "job_" + "0" * 26
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The spec with `value` at the JSON pointer `path`; objects on the way are made."""
    spec = copy.deepcopy(SPEC)
    *way, last = path.strip("/").split("/")
    here = spec
    for part in way:
        here = here.setdefault(part, {})
    here[last] = value
    return spec


def without(name: str) -> dict[str, Any]:
    """The spec without one field."""
    return {key: value for key, value in SPEC.items() if key != name}


BAD_SPECS = [
    # unknown names
    (changed("/nam", "x"), "/nam", "UNKNOWN_FIELD", "Did you mean 'name'?"),
    (changed("/training/epoch", 3), "/training/epoch", "UNKNOWN_FIELD", "Did you mean 'epochs'?"),
    (changed("/dataset/augmnt", ["flip"]), "/dataset/augmnt", "UNKNOWN_FIELD", "Did you mean 'augment'?"),
    (changed("/resources/gpu", 1), "/resources/gpu", "UNKNOWN_FIELD", "Known: queue, priority"),
    (changed("/student/architecture", "seed_studnt"), "/student/architecture", "UNKNOWN_NAME", "'seed_student'?"),
    (changed("/teacher/architecture", "seedteacher"), "/teacher/architecture", "UNKNOWN_NAME", "'seed_teacher'?"),
    (changed("/student/architecture", "../../etc"), "/student/architecture", "STRING_PATTERN_MISMATCH", "pattern"),
    # missing
    (without("dataset"), "/dataset", "MISSING", "Add this field."),
    (without("teacher"), "/teacher", "MISSING", "Add 'teacher', such as"),
    (without("student"), "/student", "MISSING", "Add this field."),
    (changed("/student", {}), "/student/architecture", "MISSING", "Add this field."),
    (changed("/dataset", {"kind": "idx"}), "/dataset/path", "MISSING", "Add this field."),
    (changed("/teacher", {"architecture": "seed_teacher"}), "/teacher", "VALUE_ERROR", "Add 'train: {epochs: 20}'"),
    # choices
    (changed("/dataset", {}), "/dataset", "UNION_TAG_NOT_FOUND", "Add the field 'kind'."),
    (changed("/dataset", {"kind": "folder", "path": "x"}), "/dataset/kind", "UNION_TAG_INVALID", "'image_folder'?"),
    (changed("/training/optimizer", "adam"), "/training/optimizer", "UNION_TAG_INVALID", "Did you mean 'adamw'?"),
    (changed("/training/schedule", {"name": "stp"}), "/training/schedule/name", "UNION_TAG_INVALID", "'step'?"),
    (changed("/method/strategy", "onlin"), "/method/strategy", "UNION_TAG_INVALID", "'online'?"),
    (changed("/method/preset", "kdd"), "/method/preset", "LITERAL_ERROR", "'kd'?"),
    (
        changed("/method/objective", [{"term": "soft_target"}]),
        "/method/objective/0/term",
        "UNION_TAG_INVALID",
        "'soft_targets'?",
    ),
    (changed("/task", "text-classification"), "/task", "LITERAL_ERROR", "image-classification"),
    (changed("/export", ["onnx", "tflite"]), "/export/1", "LITERAL_ERROR", "Known: safetensors, onnx"),
    (changed("/latency/runtimes", ["onnx"]), "/latency/runtimes/0", "LITERAL_ERROR", "onnxruntime"),
    (changed("/training/device", "gpu"), "/training/device", "LITERAL_ERROR", "cpu"),
    (changed("/seeds", 21), "/seeds", "LESS_THAN_EQUAL", "Use 20 or less."),
    # numbers
    (changed("/training/epochs", 0), "/training/epochs", "GREATER_THAN_EQUAL", "Use 1 or more."),
    (changed("/training/epochs", 10_001), "/training/epochs", "LESS_THAN_EQUAL", "Use 10000 or less."),
    (changed("/training/epochs", 10**40), "/training/epochs", "LESS_THAN_EQUAL", "Use 10000 or less."),
    (changed("/training/epochs", 1.5), "/training/epochs", "INT_FROM_FLOAT", "whole number"),
    (changed("/training/epochs", "10"), "/training/epochs", "WRONG_TYPE", "without quotes"),
    (changed("/training/epochs", True), "/training/epochs", "WRONG_TYPE", "number"),
    (changed("/training/batch_size", 65_537), "/training/batch_size", "LESS_THAN_EQUAL", "Use 65536 or less."),
    (changed("/training/seed", -1), "/training/seed", "GREATER_THAN_EQUAL", "Use 0 or more."),
    (changed("/training/optimizer", {"name": "sgd", "lr": 0}), "/training/optimizer/lr", "GREATER_THAN", "above 0"),
    (changed("/training/optimizer", {"name": "sgd", "lr": 11}), "/training/optimizer/lr", "LESS_THAN_EQUAL", "10"),
    (
        changed("/method/objective", [{"term": "soft_targets", "temperature": 0}]),
        "/method/objective/0/temperature",
        "GREATER_THAN",
        "above 0",
    ),
    (changed("/dataset/validation", 0.95), "/dataset/validation", "LESS_THAN", "below 0.9"),
    (changed("/dataset/image_size", 3), "/dataset/image_size", "GREATER_THAN_EQUAL", "Use 4 or more."),
    (changed("/latency/rounds", 5), "/latency/rounds", "GREATER_THAN_EQUAL", "Use 30 or more."),
    (changed("/latency/batch_sizes", [1, 0]), "/latency/batch_sizes/1", "GREATER_THAN_EQUAL", "Use 1 or more."),
    (changed("/resources/priority", 101), "/resources/priority", "LESS_THAN_EQUAL", "Use 100 or less."),
    (changed("/teacher/minimum_accuracy", 1.1), "/teacher/minimum_accuracy", "LESS_THAN_EQUAL", "Use 1.0 or less."),
    # texts, lists, objects
    (changed("/name", ""), "/name", "STRING_TOO_SHORT", "Use 1 or more"),
    (changed("/name", "x" * 201), "/name", "STRING_TOO_LONG", "at most 200"),
    (changed("/name", 5), "/name", "STRING_TYPE", "Use a string."),
    (changed("/name", "a\x00b"), "/name", "NUL_IN_TEXT", "Leave it out."),
    (changed("/baseline", "yes"), "/baseline", "WRONG_TYPE", "true or false"),
    (changed("/export", []), "/export", "TOO_SHORT", "Give 1 or more"),
    (changed("/export", "onnx"), "/export", "TUPLE_TYPE", "list"),
    (changed("/labels", {"bad key": "x"}), "/labels/bad key", "STRING_PATTERN_MISMATCH", "pattern"),
    (changed("/labels", {f"k{i}": "" for i in range(65)}), "/labels", "TOO_LONG", "at most 64"),
    (changed("/resources/queue", "GPU"), "/resources/queue", "STRING_PATTERN_MISMATCH", "pattern"),
    (changed("/dataset", "digits"), "/dataset", "MODEL_TYPE", "named fields"),
    (changed("/training", [1]), "/training", "MODEL_TYPE", "named fields"),
    (changed("/teacher", 5), "/teacher", "MODEL_TYPE", "named fields"),
    # fields that do not go together
    (changed("/teacher", None), "/teacher", "MISSING", "Add 'teacher', such as"),
    (changed("/method", {"strategy": "online"}), "/teacher/train", "SOURCE_NOT_USED", "Leave it out"),
    (changed("/teacher/weights", "x.safetensors"), "/teacher", "VALUE_ERROR", "Leave all but one out."),
    (
        changed("/teacher", {"architecture": "seed_teacher", "weights": "teacher.pt"}),
        "/teacher",
        "VALUE_ERROR",
        "Convert",
    ),
    (
        changed("/teacher", {"architecture": "seed_teacher", "weights": "torchvision:DEFAULT"}),
        "/teacher/weights",
        "UNUSABLE_WEIGHTS",
        "begins with torchvision/",
    ),
    (
        changed("/method", {"preset": "kd", "objective": [{"term": "cross_entropy"}]}),
        "/method",
        "VALUE_ERROR",
        "Leave one of the two out.",
    ),
    (
        changed("/method/objective", [{"term": "cross_entropy"}, {"term": "cross_entropy"}]),
        "/method",
        "VALUE_ERROR",
        "Merge the two.",
    ),
    (
        changed("/method/objective", [{"term": "cross_entropy", "weight": 0}]),
        "/method",
        "VALUE_ERROR",
        "Give one a weight.",
    ),
    (
        changed("/student/architecture", "torchvision/alexnet"),
        "/dataset/image_size",
        "IMAGES_TOO_SMALL",
        "or more",
    ),
    # references
    (
        changed("/teacher", {"architecture": "seed_teacher", "job": "job_1"}),
        "/teacher/job",
        "STRING_PATTERN_MISMATCH",
        "",
    ),
    (changed("/teacher", {"architecture": "seed_teacher", "job": JOB}), "/teacher/job", "NOT_FOUND", "GET /v1/jobs"),
    (
        changed("/teacher", {"architecture": "seed_teacher", "model": "mdl_" + "0" * 26}),
        "/teacher/model",
        "NOT_FOUND",
        "",
    ),
]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs:validate"])
@pytest.mark.parametrize(("spec", "pointer", "code", "hint"), BAD_SPECS, ids=lambda value: str(value)[:40])
def test_a_bad_spec_is_refused_with_its_place_and_mend(
    live: Any, check_problem: Any, path: str, spec: dict[str, Any], pointer: str, code: str, hint: str
) -> None:
    problem = check_problem(live.http.post(path, json=spec), 422, "INVALID_SPEC")
    first = problem.errors[0]
    assert (first.pointer, first.code) == (pointer, code)
    assert hint in first.hint
    assert pointer in problem.detail


def test_two_unknown_networks_are_told_at_once(live: Any, check_problem: Any) -> None:
    spec = {**SPEC, "student": {"architecture": "a"}, "teacher": {"architecture": "b", "train": {"epochs": 1}}}
    problem = check_problem(live.http.post("/v1/jobs", json=spec), 422, "INVALID_SPEC")
    assert [error.pointer for error in problem.errors] == ["/teacher/architecture", "/student/architecture"]


def test_nothing_bad_was_stored(live: Any) -> None:
    assert live.http.get("/v1/jobs").json() == {"data": [], "next_page_token": None}


JSON_TYPE = {"content-type": "application/json"}
RAW_BODIES = [
    (b"{", JSON_TYPE, 400, "INVALID_JSON", "line 1 column 2"),
    (b"", JSON_TYPE, 422, "INVALID_REQUEST", "no body"),
    (b"null", JSON_TYPE, 422, "INVALID_SPEC", "object"),
    (b"[]", JSON_TYPE, 422, "INVALID_SPEC", "object"),
    (b"5", JSON_TYPE, 422, "INVALID_SPEC", "object"),
    (b'"spec"', JSON_TYPE, 422, "INVALID_SPEC", "object"),
    (b"\xff\xfe{}", JSON_TYPE, 400, "INVALID_JSON", "utf-8"),
    (b"{}{}", JSON_TYPE, 400, "INVALID_JSON", "Extra data"),
    (b'{"name": "\\ud800"}', JSON_TYPE, 422, "INVALID_SPEC", "unicode"),
    (b'{"\\ud800": 1}', JSON_TYPE, 422, "INVALID_SPEC", "unicode"),
    (b'{"training": {"epochs": ' + b"1" * 5000 + b"}}", JSON_TYPE, 400, "INVALID_JSON", "4300 digits"),
    (b'{"training": {"optimizer": {"name": "sgd", "lr": NaN}}}', JSON_TYPE, 422, "INVALID_SPEC", "finite"),
    (b'{"training": {"optimizer": {"name": "sgd", "lr": 1e999}}}', JSON_TYPE, 422, "INVALID_SPEC", "finite"),
    (b"[" * 17 + b"]" * 17, JSON_TYPE, 400, "JSON_TOO_DEEP", "16 levels"),
    (b"[" * 200_000, JSON_TYPE, 400, "JSON_TOO_DEEP", "16 levels"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON_TYPE, 400, "JSON_TOO_DEEP", "16 levels"),
    (b'{"name": "' + b"x" * (1 << 20) + b'"}', JSON_TYPE, 413, "TOO_LARGE", "1048576 bytes"),
    (b"{}", {"content-type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE", "text/plain"),
    (b"{}", {}, 415, "UNSUPPORTED_MEDIA_TYPE", "no stated type"),
    (b"{}", {"content-type": "multipart/form-data; boundary=x"}, 415, "UNSUPPORTED_MEDIA_TYPE", "multipart"),
    (b"name: x", {"content-type": "application/yaml"}, 415, "UNSUPPORTED_MEDIA_TYPE", "yaml"),
    (b"{}", JSON_TYPE | {"content-encoding": "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE", "compressed"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code", "detail"), RAW_BODIES, ids=lambda value: str(value)[:30])
def test_a_body_that_is_no_spec_is_refused(
    live: Any, check_problem: Any, body: bytes, headers: dict[str, str], status: int, code: str, detail: str
) -> None:
    problem = check_problem(live.http.post("/v1/jobs", content=body, headers=headers), status, code)
    assert detail in problem.detail
    assert problem.hint or problem.errors


def test_sixteen_levels_are_read(live: Any, check_problem: Any) -> None:
    check_problem(live.http.post("/v1/jobs", content=b"[" * 16 + b"]" * 16, headers=JSON_TYPE), 422, "INVALID_SPEC")


def test_a_spec_of_another_json_type_is_read(live: Any) -> None:
    headers = {"content-type": "application/vnd.distillery+json; charset=utf-8"}
    assert live.http.post("/v1/jobs:validate", content=json.dumps(SPEC), headers=headers).status_code == 200


BAD_REQUESTS = [
    ("GET", "/", 404, "NOT_FOUND", "", "/openapi.json"),
    ("GET", "/v1/job", 404, "NOT_FOUND", "", "/openapi.json"),
    ("GET", "/v1/jobs/", 404, "NOT_FOUND", "", "/openapi.json"),
    ("GET", "/docs", 404, "NOT_FOUND", "", "/openapi.json"),
    ("DELETE", "/v1/jobs", 405, "METHOD_NOT_ALLOWED", "", "GET, POST"),
    ("GET", "/v1/jobs:validate", 405, "METHOD_NOT_ALLOWED", "", "POST"),
    ("GET", f"/v1/jobs/{JOB}:cancel", 405, "METHOD_NOT_ALLOWED", "", "POST"),
    ("PUT", f"/v1/jobs/{JOB}:cancel", 405, "METHOD_NOT_ALLOWED", "", "POST"),
    ("POST", f"/v1/jobs/{JOB}", 405, "METHOD_NOT_ALLOWED", "", "GET"),
    ("POST", f"/v1/jobs/{JOB}:explode", 404, "NOT_FOUND", "", "/openapi.json"),
    ("PATCH", f"/v1/jobs/{JOB}/artifacts/x", 405, "METHOD_NOT_ALLOWED", "", "GET, HEAD"),
    ("OPTIONS", "/v1/jobs", 405, "METHOD_NOT_ALLOWED", "", "GET, POST"),
    ("GET", f"/v1/jobs/{JOB}", 404, "NOT_FOUND", "", "GET /v1/jobs"),
    ("GET", "/v1/jobs/job_1", 404, "NOT_FOUND", "", "job_ and 26"),
    ("GET", "/v1/jobs/%00", 404, "NOT_FOUND", "", "job_ and 26"),
    ("GET", "/v1/jobs/" + "x" * 5000, 404, "NOT_FOUND", "", "job_ and 26"),
    ("GET", f"/v1/jobs/bmk_{'0' * 26}", 404, "NOT_FOUND", "", "job_ and 26"),
    ("POST", f"/v1/jobs/{JOB}:cancel", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/events", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/metrics", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/checkpoints", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/checkpoints/ckp_1/content", 404, "NOT_FOUND", "", "ckp_ and 26"),
    ("GET", f"/v1/jobs/{JOB}/artifacts", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/artifacts/student.safetensors", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/artifacts/..%2F..%2Fetc%2Fpasswd", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/artifacts/..", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/report", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/jobs/{JOB}/latency", 404, "NOT_FOUND", "", ""),
    ("POST", f"/v1/jobs/{JOB}/latency", 404, "NOT_FOUND", "", ""),
    ("GET", f"/v1/benchmarks/bmk_{'0' * 26}", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("GET", f"/v1/benchmarks/bmk_{'0' * 26}/result", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("GET", f"/v1/benchmarks/bmk_{'0' * 26}/artifacts", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("GET", f"/v1/benchmarks/bmk_{'0' * 26}/artifacts/x", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("POST", f"/v1/benchmarks/bmk_{'0' * 26}:cancel", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("DELETE", f"/v1/benchmarks/bmk_{'0' * 26}", 404, "NOT_FOUND", "", "GET /v1/benchmarks"),
    ("GET", "/v1/benchmarks/bmk_1", 404, "NOT_FOUND", "", "bmk_ and 26"),
    ("GET", "/v1/benchmarks?label=%00", 422, "INVALID_REQUEST", "/label", "Leave it out."),
    ("GET", "/v1/benchmarks?page_token=bm9uZQ", 400, "INVALID_PAGE_TOKEN", "/page_token", "next_page_token"),
    ("GET", "/v1/benchmarks/pareto", 422, "INVALID_REQUEST", "/label", "Add this field."),
    ("GET", "/v1/benchmarks/pareto?label=a&against=speed", 422, "INVALID_REQUEST", "/against/0", "p95"),
    ("GET", "/v1/benchmarks/pareto?label=a&batch_size=0", 422, "INVALID_REQUEST", "/batch_size", "Use 1 or more."),
    ("GET", "/v1/benchmarks/pareto?label=a&forced=1", 422, "INVALID_REQUEST", "/forced", "Did you mean 'force'?"),
    ("GET", f"/v1/models/mdl_{'0' * 26}", 404, "NOT_FOUND", "", ""),
    ("GET", "/v1/models/x", 404, "NOT_FOUND", "", "mdl_ and 26"),
    ("GET", "/v1/jobs?page_size=0", 422, "INVALID_REQUEST", "/page_size", "Use 1 or more."),
    ("GET", "/v1/jobs?page_size=201", 422, "INVALID_REQUEST", "/page_size", "Use 200 or less."),
    ("GET", "/v1/jobs?page_size=ten", 422, "INVALID_REQUEST", "/page_size", "whole number"),
    ("GET", "/v1/jobs?page_token=!", 400, "INVALID_PAGE_TOKEN", "/page_token", "next_page_token"),
    ("GET", "/v1/jobs?page_token=" + "A" * 2000, 422, "INVALID_REQUEST", "/page_token", "at most 1024"),
    ("GET", "/v1/models?page_token=bm9uZQ", 400, "INVALID_PAGE_TOKEN", "/page_token", "next_page_token"),
    ("GET", "/v1/jobs?status=done", 422, "INVALID_REQUEST", "/status", "queued"),
    ("GET", "/v1/jobs?status=runing", 422, "INVALID_REQUEST", "/status", "Did you mean 'running'?"),
    ("GET", "/v1/jobs?created_after=yesterday", 422, "INVALID_REQUEST", "/created_after", "2026-01-31T12:00:00Z"),
    ("GET", "/v1/jobs?created_after=2026-01-01T00:00:00", 422, "INVALID_REQUEST", "/created_after", "time zone"),
    ("GET", "/v1/jobs?statuss=queued", 422, "INVALID_REQUEST", "/statuss", "Did you mean 'status'?"),
    ("GET", "/v1/jobs?q=%00", 422, "INVALID_REQUEST", "/q", "Leave it out."),
    ("GET", "/v1/jobs?q=" + "x" * 201, 422, "INVALID_REQUEST", "/q", "at most 200"),
    ("GET", "/v1/runtimes?page_size=5", 422, "INVALID_REQUEST", "/page_size", "takes none"),
    ("GET", f"/v1/jobs/{JOB}?wait=61", 422, "INVALID_REQUEST", "/wait", "Use 60 or less."),
    ("GET", f"/v1/jobs/{JOB}?wait=-1", 422, "INVALID_REQUEST", "/wait", "Use 0 or more."),
    ("GET", f"/v1/jobs/{JOB}/events?after=-1", 422, "INVALID_REQUEST", "/after", "Use 0 or more."),
    ("GET", f"/v1/jobs/{JOB}/events?after={10**30}", 422, "INVALID_REQUEST", "/after", "or less"),
    ("GET", f"/v1/jobs/{JOB}/metrics?max_points=1", 422, "INVALID_REQUEST", "/max_points", "Use 2 or more."),
    ("GET", f"/v1/jobs/{JOB}/metrics?format=xml", 422, "INVALID_REQUEST", "/format", "json"),
    ("GET", f"/v1/jobs/{JOB}/metrics?" + "keys=a&" * 101, 422, "INVALID_REQUEST", "/keys", "at most 100"),
]


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "pointer", "hint"), BAD_REQUESTS, ids=lambda value: str(value)[:40]
)
def test_a_bad_request_is_refused(
    live: Any, check_problem: Any, method: str, path: str, status: int, code: str, pointer: str, hint: str
) -> None:
    answer = live.http.request(method, path)
    problem = check_problem(answer, status, code)
    assert hint in " ".join([problem.hint, *(error.hint for error in problem.errors)])
    assert [error.pointer for error in problem.errors][:1] == ([pointer] if pointer else [])
    if status == 405:
        assert answer.headers["allow"] == problem.hint.removeprefix("Possible there: ").rstrip(".")


@pytest.mark.parametrize(
    ("spec", "pointer", "hint"),
    [
        ({"rounds": 29}, "/rounds", "Use 30 or more."),
        ({"round": 30}, "/round", "Did you mean 'rounds'?"),
        ({"devices": ["gpu"]}, "/devices/0", "cpu"),
        ({"threads": 0}, "/threads", "Use 1 or more."),
        ([], "", "named fields"),
    ],
)
def test_a_bad_latency_spec_is_refused(live: Any, check_problem: Any, spec: Any, pointer: str, hint: str) -> None:
    problem = check_problem(live.http.post(f"/v1/jobs/{JOB}/latency", json=spec), 422, "INVALID_SPEC")
    assert problem.errors[0].pointer == pointer
    assert hint in problem.errors[0].hint
