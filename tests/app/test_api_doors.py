"""What stands before the routes: the key, the limits on bodies, trace ids, and the answer to what nobody foresaw."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import errors as app_errors
from app.limits import MAX_JSON_BYTES, BodyLimits
from app.log import json_log
from app.observe import Observe, RequestMeter
from distillery import errors
from distillery.views import Problem

KEY = "dk_live_correct-horse"


@pytest.fixture
def locked(launch: Any) -> Iterator[Any]:
    with launch(api_key=KEY) as live:
        yield live


def raw(live: Any, request: bytes) -> bytes:
    """Send bytes and read until the server closes the connection or says no more."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


def problem_in(answer: bytes) -> Problem:
    """The problem document behind the head of a raw answer."""
    return Problem.model_validate_json(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xfc"],
)
def test_without_the_key_nothing_is_served(locked: Any, check_problem: Any, header: str | None) -> None:
    with httpx.Client(base_url=locked.url) as stranger:
        headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
        for path in ("/v1/jobs", "/metrics", "/openapi.json", "/nothing"):
            answer = stranger.get(path, headers=headers)
            check_problem(answer, 401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert KEY not in answer.text


def test_with_the_key_all_is_served(locked: Any) -> None:
    assert locked.http.get("/v1/jobs").status_code == 200
    assert locked.http.get("/v1/jobs", headers={"Authorization": f"bearer  {KEY}"}).status_code == 200


def test_an_orchestrator_needs_no_key(locked: Any) -> None:
    with httpx.Client(base_url=locked.url) as stranger:
        assert stranger.get("/livez").status_code == 200
        assert stranger.get("/readyz").status_code == 200
        assert stranger.get("/livez/x").status_code == 401


def test_the_answer_401_comes_before_the_body_is_sent(locked: Any) -> None:
    # The body is announced and never sent: whoever waited for it would never answer.
    answer = raw(
        locked,
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 401")
    assert problem_in(answer).code == "UNAUTHORIZED"


def test_the_key_is_read_from_the_environment(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_API_KEY", KEY)
    with launch() as live:
        assert live.http.get("/v1/jobs").status_code == 401
        assert live.http.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_an_announced_body_that_is_too_large_is_refused_unread(live: Any) -> None:
    head = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    answer = raw(live, head.format(MAX_JSON_BYTES + 1).encode())
    assert answer.startswith(b"HTTP/1.1 413")
    assert problem_in(answer).code == "TOO_LARGE"


def test_a_body_without_announced_length_is_counted(live: Any, check_problem: Any) -> None:
    def pieces(count: int) -> Iterator[bytes]:
        yield from (b" " * 65536 for _ in range(count))

    headers = {"Content-Type": "application/json"}
    check_problem(live.http.post("/v1/jobs", content=pieces(17), headers=headers), 413, "TOO_LARGE")
    check_problem(live.http.post("/v1/jobs", content=pieces(15), headers=headers), 400, "INVALID_JSON")


def test_a_body_that_does_not_come_is_not_waited_for(serve: Any) -> None:
    with serve(BodyLimits(FastAPI(), seconds=0.2)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
            assert client.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", ["abc-123", "a" * 128, "0af7651916cd43dd8448eb211c80319c"])
def test_a_valid_trace_id_is_kept(live: Any, sent: str) -> None:
    answer = live.http.get("/v1/nothing", headers={"X-Request-Id": sent})
    assert answer.headers["x-request-id"] == sent
    assert answer.json()["trace_id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, "<script>", "ä".encode(), '"', "a\tb"])
def test_a_strange_trace_id_is_replaced(live: Any, sent: Any) -> None:
    answer = live.http.get("/livez", headers={"X-Request-Id": sent})
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-request-id"] != live.http.get("/livez").headers["x-request-id"]


def walk(kind: type[errors.DistilleryError]) -> Iterator[type[errors.DistilleryError]]:
    """The class and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from walk(below)


EXPECTED = {
    "DistilleryError": 500, "InvalidRequest": 422, "InvalidSpec": 422, "UnreadableData": 422, "UnusableWeights": 422,
    "UnknownName": 422, "InvalidPageToken": 400, "UnsatisfiableRange": 416, "NotFound": 404, "WrongState": 409,
    "Fenced": 409, "TrainingDiverged": 500, "ExportMismatch": 500, "CorruptFile": 500, "StorageFull": 507,
    "InvalidWebhook": 422, "KeyReused": 422, "Outdated": 412, "Unavailable": 503, "MissingDependency": 501,
    "InvalidImport": 422, "HostileFile": 422, "UnfitTeacher": 422, "QuotaExceeded": 413, "TooLarge": 413,
    "EnvironmentsDiffer": 409, "DigestMismatch": 400, "JobEndedBadly": 500, "StillRunning": 500, "ServiceRefused": 500,
    "RuntimeCrashed": 500, "OutOfMemory": 500,
    "InvalidInput": 422, "TooBusy": 429,
}  # fmt: skip


def made(kind: type[errors.DistilleryError]) -> errors.DistilleryError:
    """One of this class, told in a way that the answer must repeat."""
    if issubclass(kind, errors.InvalidSpec):
        return kind([errors.FieldProblem("/a", "X", "Wrong.", "Mend it.")])
    if issubclass(kind, errors.UnsatisfiableRange):
        return kind("Outside.", size=5)
    if issubclass(kind, errors.TooBusy):
        return kind("Later.", retry_after_seconds=7)
    if issubclass(kind, errors.ServiceRefused):
        return kind("No.", status=400, problem_code="X")
    if issubclass(kind, errors.UnfitTeacher):
        return kind("It reads BGR.", cause="NORMALISATION", hint="How to mend it.")
    return kind("What happened.", hint="How to mend it.")


ALL_ERRORS = [kind for kind in walk(errors.DistilleryError) if kind.__module__ == "distillery.errors"]


@pytest.fixture(scope="module")
def failing(serve: Any) -> Iterator[str]:
    """An application with our doors, whose every route raises."""
    inner = FastAPI(openapi_url=None)
    inner.state.routes = ()
    app_errors.install(inner)
    kinds = {kind.__name__: kind for kind in ALL_ERRORS}

    @inner.get("/raise/{name}")
    def fail(name: str) -> None:
        raise made(kinds[name]) if name in kinds else ZeroDivisionError("the secret is 42")

    inner.add_middleware(Observe, log=json_log(), meter=RequestMeter())
    with serve(inner) as url:
        yield url


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_its_status(
    failing: str, check_problem: Any, kind: type[errors.DistilleryError]
) -> None:
    answer = httpx.get(f"{failing}/raise/{kind.__name__}")
    code = made(kind).code
    problem = check_problem(answer, EXPECTED[kind.__name__], code)
    assert problem.title == kind.title
    assert problem.type == f"urn:distillery:problem:{code.lower().replace('_', '-')}"
    retry_after = {errors.Unavailable: "5", errors.TooBusy: "7"}
    assert answer.headers.get("retry-after") == retry_after.get(kind)
    assert answer.headers.get("content-range") == ("bytes */5" if kind is errors.UnsatisfiableRange else None)


def test_what_nobody_foresaw_is_told_to_the_log_only(failing: str, check_problem: Any) -> None:
    answer = httpx.get(f"{failing}/raise/other", headers={"X-Request-Id": "trace-of-the-test"})
    check_problem(answer, 500, "INTERNAL")
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_the_log_names_the_route_and_the_trace_but_no_body_query_or_key(
    launch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with launch(api_key=KEY) as live:
        live.http.post("/v1/jobs", json={"secret-field": "secret-value"}, headers={"X-Request-Id": "trace-1"})
        live.http.get("/v1/jobs?q=secret-query")
        live.http.get("/livez")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in requests] == [
        ("POST", "/v1/jobs", 422),
        ("GET", "/v1/jobs", 200),
    ]
    assert requests[0]["trace_id"] == "trace-1"
    assert "secret" not in json.dumps(lines)
    assert KEY not in json.dumps(lines)
