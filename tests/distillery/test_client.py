"""Both clients against a peer on a real socket: what they send, what they make of the answers, what they bear."""

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from distillery import calls, flows
from distillery.client import AsyncClient, Client, Timeouts
from distillery.connection import Connection
from distillery.errors import InvalidRequest, JobEndedBadly, ServiceRefused, StillRunning, Unavailable
from distillery.flows import Patience, Pause
from distillery.spec import LatencySpec, parse
from distillery.views import Benchmark, JobError, JobSummary

JOB_ID = "job_" + "0" * 26
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = {
    "name": "a study",
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "train": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
}
Ask = Callable[..., Any]
SHORT = Timeouts(connect=1, read=2, write=2, outage=2)


async def _resolved(answer: Awaitable[Any] | AsyncIterator[Any]) -> Any:
    if isinstance(answer, AsyncIterator):
        return [each async for each in answer]
    return await answer


async def _asked(url: str, request: Callable[[Any], Any], **options: Any) -> Any:
    async with AsyncClient(url, timeouts=SHORT, **options) as client:
        return await _resolved(request(client))


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(url, lambda client: client.job(...))`, once with each client; iterators come back as lists."""

    def asked(url: str, wish: Callable[[Any], Any], **options: Any) -> Any:
        if request.param == "async":
            return asyncio.run(_asked(url, wish, **options))
        with Client(url, timeouts=SHORT, **options) as client:
            answer = wish(client)
            return list(answer) if inspect.isgenerator(answer) else answer

    return asked


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name.replace("aclose", "close"): list(inspect.signature(method).parameters)
            for name, method in methods
            if not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)


def test_a_job_is_submitted_once_as_json_with_the_key(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(peer.job(), status=201)]
    assert ask(peer.url, lambda client: client.submit(SPEC), api_key="secret").id == JOB_ID
    (request,) = peer.seen
    assert (request.method, request.path) == ("POST", "/v1/jobs")
    assert json.loads(request.body) == SPEC
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"


def test_a_typed_spec_is_sent_whole(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(peer.job(), status=201)]
    spec = parse(SPEC)
    ask(peer.url, lambda client: client.submit(spec))
    assert parse(json.loads(peer.seen[0].body)) == spec


def test_what_is_no_json_is_not_sent(peer: Any) -> None:
    with Client(peer.url) as client, pytest.raises(InvalidRequest, match="cannot be written as JSON"):
        client.submit({**SPEC, "name": float("nan")})
    assert peer.seen == []


def test_a_problem_becomes_an_error_with_pointers_and_hints(ask: Ask, peer: Any) -> None:
    found = {"pointer": "/trainig", "code": "UNKNOWN_FIELD", "detail": "Not known.", "hint": "Did you mean 'training'?"}
    peer.script = [peer.problem(422, "INVALID_SPEC", "The spec has errors.", errors=(found,))]
    with pytest.raises(ServiceRefused, match=r"The spec has errors\.") as caught:
        ask(peer.url, lambda client: client.submit(SPEC))
    assert (caught.value.status, caught.value.problem_code) == (422, "INVALID_SPEC")
    assert [(each.pointer, each.hint) for each in caught.value.problems] == [("/trainig", "Did you mean 'training'?")]


def keys_of(peer: Any) -> list[str]:
    return [each.headers["idempotency-key"] for each in peer.seen]


def test_a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key(ask: Ask, peer: Any) -> None:
    broken = peer.breaks_off(b"x" * 500, status=201, after=100, headers={"Content-Type": "application/json"})
    peer.script = [peer.hangs_up, broken, peer.says(peer.job(), status=201)]
    assert ask(peer.url, lambda client: client.submit(SPEC)).id == JOB_ID
    assert len(peer.seen) == 3
    assert len(set(keys_of(peer))) == 1
    assert len({each.body for each in peer.seen}) == 1


def test_each_submission_has_a_key_of_its_own(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(peer.job(), status=201)]
    for _ in range(3):
        ask(peer.url, lambda client: client.submit(SPEC))
    assert len(set(keys_of(peer))) == 3


def test_a_submission_that_is_never_answered_is_given_up_in_the_end(ask: Ask, peer: Any) -> None:
    peer.script = [peer.hangs_up]
    with pytest.raises(Unavailable, match="broke"):
        ask(peer.url, lambda client: client.submit(SPEC))
    assert len(peer.seen) > 2
    assert len(set(keys_of(peer))) == 1


def test_a_submission_that_is_refused_is_not_sent_again(ask: Ask, peer: Any) -> None:
    peer.script = [peer.problem(422, "INVALID_SPEC", "The spec has errors.")]
    with pytest.raises(ServiceRefused):
        ask(peer.url, lambda client: client.submit(SPEC))
    assert len(peer.seen) == 1


def test_a_submission_to_nobody_does_not_wait_for_an_outage_to_end() -> None:
    flow = Connection("http://x", None, Timeouts(outage=600)).exchange(calls.submit(SPEC))
    next(flow)
    for _ in range(3):
        assert isinstance(flow.throw(httpx.ConnectError("refused")), Pause)
        next(flow)
    with pytest.raises(Unavailable, match="No Distillery service answers"):
        flow.throw(httpx.ConnectError("refused"))


def test_a_service_that_went_away_with_the_answer_is_waited_for() -> None:
    flow = Connection("http://x", None, Timeouts(outage=600)).exchange(calls.submit(SPEC))
    next(flow)
    assert isinstance(flow.throw(httpx.ReadError("reset")), Pause)
    next(flow)
    for _ in range(20):
        assert isinstance(flow.throw(httpx.ConnectError("refused")), Pause)
        next(flow)


def test_a_busy_service_is_waited_for_as_long_as_it_says() -> None:
    flow = Connection("http://x", None, Timeouts(outage=60)).exchange(calls.submit(SPEC))
    asked = next(flow)
    busy = httpx.Response(503, headers={"Retry-After": "5"}, request=httpx.Request("POST", "http://x"))
    for _ in range(9):
        assert flow.send(busy) == Pause(5.0)
        assert next(flow) is asked


@pytest.mark.parametrize(
    ("wish", "method", "path", "body"),
    [
        (lambda client: client.cancel(JOB_ID), "POST", f"{JOB_ID}:cancel", None),
        (lambda client: client.pause(JOB_ID), "POST", f"{JOB_ID}:pause", None),
        (lambda client: client.resume(JOB_ID), "POST", f"{JOB_ID}:resume", None),
        (lambda client: client.retry(JOB_ID), "POST", f"{JOB_ID}:retry", None),
        (lambda client: client.retry(JOB_ID, max_seconds=60), "POST", f"{JOB_ID}:retry", {"max_seconds": 60}),
        (lambda client: client.clone(JOB_ID), "POST", f"{JOB_ID}:clone", {}),
        (lambda client: client.clone(JOB_ID, {"name": "x"}), "POST", f"{JOB_ID}:clone", {"name": "x"}),
        (lambda client: client.edit(JOB_ID, name="x"), "PATCH", JOB_ID, {"name": "x"}),
        (
            lambda client: client.edit(JOB_ID, labels={"a": None}, priority=0),
            "PATCH", JOB_ID, {"labels": {"a": None}, "priority": 0},
        ),
    ],
)  # fmt: skip
def test_each_verb_is_one_request_that_gives_the_job(
    ask: Ask, peer: Any, wish: Any, method: str, path: str, body: Any
) -> None:
    peer.script = [peer.says(peer.job())]
    assert ask(peer.url, wish).id == JOB_ID
    (request,) = peer.seen
    assert (request.method, request.path) == (method, f"/v1/jobs/{path}")
    assert (json.loads(request.body) if request.body else None) == body
    assert ("idempotency-key" in request.headers) == (path[-5:] in ("retry", "clone"))


@pytest.mark.parametrize(
    ("wish", "path"),
    [
        (lambda client: client.delete(JOB_ID), f"/v1/jobs/{JOB_ID}"),
        (lambda client: client.delete_model("mdl_1"), "/v1/models/mdl_1"),
    ],
)
def test_deleting_gives_nothing_and_says_when_it_is_refused(ask: Ask, peer: Any, wish: Any, path: str) -> None:
    peer.script = [peer.says(b"", status=204), peer.problem(409, "WRONG_STATE", "It is needed by job_1.")]
    assert ask(peer.url, wish) is None
    assert (peer.seen[0].method, peer.seen[0].path) == ("DELETE", path)
    with pytest.raises(ServiceRefused, match="needed by job_1"):
        ask(peer.url, wish)


def test_a_change_may_depend_on_the_tag_of_what_was_seen(ask: Ask, peer: Any) -> None:
    tag = '"e3-0123"'
    peer.script = [
        peer.says(peer.job(), headers={"ETag": tag}),
        peer.problem(412, "PRECONDITION_FAILED", "It was changed."),
    ]
    assert ask(peer.url, lambda client: client.job_tag(JOB_ID)) == tag
    with pytest.raises(ServiceRefused, match="It was changed") as caught:
        ask(peer.url, lambda client: client.edit(JOB_ID, name="x", if_match=tag))
    assert caught.value.status == 412
    assert peer.seen[1].headers["if-match"] == tag


@pytest.mark.parametrize(
    "wish",
    [
        lambda client: client.resume(JOB_ID),
        lambda client: client.edit(JOB_ID, name="x", if_match='"e1-0"'),
        lambda client: client.delete(JOB_ID),
        lambda client: client.delete_model("mdl_1"),
    ],
)
def test_what_a_repeat_would_find_done_is_not_sent_again(ask: Ask, peer: Any, wish: Any) -> None:
    peer.script = [peer.hangs_up]
    with pytest.raises(Unavailable, match="broke") as caught:
        ask(peer.url, wish)
    assert "may have been done all the same" in caught.value.hint
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    "wish",
    [lambda client: client.pause(JOB_ID), lambda client: client.edit(JOB_ID, name="x")],
)
def test_what_a_repeat_does_not_change_is_sent_again(ask: Ask, peer: Any, wish: Any) -> None:
    peer.script = [peer.hangs_up, peer.says(peer.job())]
    assert ask(peer.url, wish).id == JOB_ID


def test_a_reading_request_is_sent_again(ask: Ask, peer: Any) -> None:
    peer.script = [peer.hangs_up, peer.problem(503, "UNAVAILABLE", "The database is away."), peer.says(peer.job())]
    assert ask(peer.url, lambda client: client.job(JOB_ID)).id == JOB_ID
    assert len(peer.seen) == 3


def test_a_reading_request_is_given_up_in_the_end(ask: Ask, peer: Any) -> None:
    peer.script = [peer.problem(503, "UNAVAILABLE", "The database is away.")]
    with pytest.raises(ServiceRefused, match="database is away"):
        ask(peer.url, lambda client: client.job(JOB_ID))
    assert len(peer.seen) == 4


def test_retry_after_is_honoured() -> None:
    flow = flows.exchange(calls.job(JOB_ID), server="http://x", patience=Patience())
    call = next(flow)
    assert isinstance(call, calls.Call)
    busy = httpx.Response(503, headers={"Retry-After": "7"}, request=httpx.Request("GET", "http://x"))
    assert flow.send(busy) == Pause(7.0)


def test_a_retry_after_beyond_reason_is_not_waited_for() -> None:
    flow = flows.exchange(calls.job(JOB_ID), server="http://x", patience=Patience())
    next(flow)
    busy = httpx.Response(503, headers={"Retry-After": "86400"}, request=httpx.Request("GET", "http://x"))
    with pytest.raises(ServiceRefused):
        flow.send(busy)


def test_pauses_grow_and_a_success_starts_them_afresh() -> None:
    patience, failure = Patience(tries=9), Unavailable("away")
    pauses = [patience.pause(failure) for _ in range(5)]
    assert pauses[-1] > 4 * pauses[0]
    patience.reset()
    assert patience.pause(failure) <= flows.FIRST_PAUSE_SECONDS


def test_nobody_there_says_how_to_start_the_service(ask: Ask, unused_port: Callable[[], int]) -> None:
    with pytest.raises(Unavailable, match="No Distillery service answers") as caught:
        ask(f"http://127.0.0.1:{unused_port()}", lambda client: client.job(JOB_ID))
    assert "distillery up" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", ""])
def test_an_address_of_no_service_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="is not the address of a service"):
        Client(address)


@pytest.mark.parametrize(("status", "body"), [(404, "<html>nginx</html>"), (200, "<html>hello</html>"), (200, "{}")])
def test_another_server_at_the_address_is_recognised(ask: Ask, peer: Any, status: int, body: str) -> None:
    peer.script = [peer.says(body, status=status, kind="text/html")]
    with pytest.raises(ServiceRefused) as caught:
        ask(peer.url, lambda client: client.job(JOB_ID))
    assert caught.value.problem_code == "UNEXPECTED_ANSWER"
    assert "Distillery service" in caught.value.hint


def test_a_service_that_is_silent_is_told_from_one_that_is_absent(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def wish(client: Any) -> Any:
            return client.submit(SPEC)

        with pytest.raises(Unavailable, match="did not answer in time"):
            ask(url, wish)


def test_a_list_is_read_page_by_page_with_its_filters(ask: Ask, peer: Any) -> None:
    rows = [
        JobSummary(
            id=f"job_{n}", name="x", status="queued", teacher="a", student="b", created_at=NOW, labels={}
        ).model_dump(mode="json")
        for n in range(3)
    ]
    peer.script = [peer.says({"data": rows[:2], "next_page_token": "t&1"}), peer.says({"data": rows[2:]})]
    found = ask(peer.url, lambda client: client.jobs(status="queued", created_after=NOW))
    assert [each.id for each in found] == ["job_0", "job_1", "job_2"]
    assert "status=queued" in peer.seen[0].path
    assert "created_after=2026-01-02T03%3A04%3A05%2B00%3A00" in peer.seen[0].path
    assert "page_token=t%261" in peer.seen[1].path
    assert "status=queued" in peer.seen[1].path


def test_an_identifier_cannot_leave_its_place_in_the_path(ask: Ask, peer: Any) -> None:
    peer.script = [peer.problem(404, "NOT_FOUND", "No such job.")]
    with pytest.raises(ServiceRefused):
        ask(peer.url, lambda client: client.job("../models?x=1"))
    assert peer.seen[0].path == "/v1/jobs/..%2Fmodels%3Fx%3D1"


def test_wait_returns_the_ended_job(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(peer.job(status="running")), peer.hangs_up, peer.says(peer.job(status="succeeded"))]
    assert ask(peer.url, lambda client: client.wait(JOB_ID)).status == "succeeded"
    assert peer.seen[0].path.endswith("?wait=30")


def test_wait_gives_up_when_its_time_is_over(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(peer.job(status="running"))]
    with pytest.raises(StillRunning, match=r"is running after 0\.1 s"):
        ask(peer.url, lambda client: client.wait(JOB_ID, timeout=0.1))


def test_wait_goes_on_while_the_job_is_paused(ask: Ask, peer: Any) -> None:
    paused = peer.says(peer.job(status="paused"))
    peer.script = [paused, peer.hangs_up, paused, peer.says(peer.job(status="succeeded"))]
    assert ask(peer.url, lambda client: client.wait(JOB_ID)).status == "succeeded"
    peer.script = [paused]
    with pytest.raises(StillRunning, match=r"is paused after 0\.1 s") as caught:
        ask(peer.url, lambda client: client.wait(JOB_ID, timeout=0.1))
    assert f"distillery resume {JOB_ID}" in caught.value.hint


def test_wait_raises_on_a_bad_end_when_asked(ask: Ask, peer: Any) -> None:
    error = JobError(type="x", title="x", detail="The loss is not finite.", code="DIVERGED", hint="Lower the rate.")
    peer.script = [peer.says(peer.job(status="failed", error=error))]
    assert ask(peer.url, lambda client: client.wait(JOB_ID)).status == "failed"
    with pytest.raises(JobEndedBadly, match=r"failed: The loss is not finite\.") as caught:
        ask(peer.url, lambda client: client.wait(JOB_ID, check=True))
    assert caught.value.hint == "Lower the rate."


def seqs_of(events: list[Any]) -> list[int]:
    return [each.seq for each in events]


def test_a_stream_goes_on_where_it_broke(ask: Ask, peer: Any) -> None:
    peer.script = [peer.streams(1, 2, end=False), peer.hangs_up, peer.streams(3, 4, end=True)]
    assert seqs_of(ask(peer.url, lambda client: client.stream(JOB_ID))) == [1, 2, 3, 4]
    assert [each.headers["last-event-id"] for each in peer.seen] == ["0", "2", "2"]
    assert peer.seen[0].headers["accept"] == "text/event-stream"


def test_a_stream_repeats_nothing(ask: Ask, peer: Any) -> None:
    peer.script = [peer.streams(1, 2, end=False), peer.streams(1, 2, 2, 3, end=True)]
    assert seqs_of(ask(peer.url, lambda client: client.stream(JOB_ID))) == [1, 2, 3]


def test_a_stream_with_a_gap_is_asked_again_from_before_it(ask: Ask, peer: Any) -> None:
    peer.script = [peer.streams(1, 4, end=True), peer.streams(2, 3, 4, end=True)]
    assert seqs_of(ask(peer.url, lambda client: client.stream(JOB_ID))) == [1, 2, 3, 4]
    assert peer.seen[1].headers["last-event-id"] == "1"


def test_a_stream_begins_after_a_given_event(ask: Ask, peer: Any) -> None:
    peer.script = [peer.streams(6, 7, end=True)]
    assert seqs_of(ask(peer.url, lambda client: client.stream(JOB_ID, after=5))) == [6, 7]
    assert "after=5" in peer.seen[0].path


def test_a_stream_outlives_a_restart_of_the_service(
    ask: Ask, peer: Any, serving: Callable[..., Callable[[], None]], unused_port: Callable[[], int]
) -> None:
    port = unused_port()
    before, after = type(peer)(), type(peer)(script=[peer.streams(2, 3, end=True)])

    def restart() -> None:
        stop()
        serving(after, port)

    def stream_and_restart(handler: Any) -> None:
        threading.Thread(target=restart).start()
        peer.streams(1, end=False)(handler)

    before.script = [stream_and_restart]
    stop = serving(before, port)
    assert seqs_of(ask(f"http://127.0.0.1:{port}", lambda client: client.stream(JOB_ID))) == [1, 2, 3]
    assert after.seen[0].headers["last-event-id"] == "1"


def test_a_stream_that_never_comes_back_is_given_up(ask: Ask, peer: Any) -> None:
    peer.script = [peer.streams(1, end=False), peer.hangs_up]
    with pytest.raises(Unavailable, match="broke"):
        ask(peer.url, lambda client: client.stream(JOB_ID))


def test_a_stream_of_no_job_is_refused_at_once(ask: Ask, peer: Any) -> None:
    peer.script = [peer.problem(404, "NOT_FOUND", "No such job.")]
    with pytest.raises(ServiceRefused, match=r"No such job\."):
        ask(peer.url, lambda client: client.stream(JOB_ID))
    assert len(peer.seen) == 1


def benchmark(status: str, **changes: Any) -> Benchmark:
    fields = {"id": "bmk_1", "job_id": JOB_ID, "status": status, "spec": LatencySpec(), "created_at": NOW}
    return Benchmark(**fields | changes)


def test_a_measurement_is_asked_for_once_and_waited_for(ask: Ask, peer: Any) -> None:
    peer.script = [
        peer.says(benchmark("queued"), status=202),
        peer.says(benchmark("running")),
        peer.says(benchmark("succeeded")),
    ]
    result = ask(peer.url, lambda client: client.measure_latency(JOB_ID, {"batch_sizes": [1, 8]}))
    assert result.status == "succeeded"
    assert [(each.method, each.path) for each in peer.seen] == [
        ("POST", f"/v1/jobs/{JOB_ID}/latency"),
        ("GET", "/v1/benchmarks/bmk_1"),
        ("GET", "/v1/benchmarks/bmk_1"),
    ]
    assert json.loads(peer.seen[0].body) == {"batch_sizes": [1, 8]}


def test_a_measurement_that_fails_says_why(ask: Ask, peer: Any) -> None:
    error = JobError(type="x", title="x", detail="No such device.", code="X")
    peer.script = [peer.says(benchmark("failed", error=error), status=202)]
    with pytest.raises(JobEndedBadly, match=r"failed: No such device\."):
        ask(peer.url, lambda client: client.measure_latency(JOB_ID))


def test_readiness_is_a_plain_yes_or_no(ask: Ask, peer: Any, unused_port: Callable[[], int]) -> None:
    peer.script = [peer.says({"status": "ok"}), peer.problem(503, "X", "away"), peer.says({"status": "ok"})]
    answers = [ask(peer.url, lambda client: client.ready()) for _ in range(3)]
    assert answers == [True, False, True]
    assert not ask(f"http://127.0.0.1:{unused_port()}", lambda client: client.ready())
