"""Clients that are slow, silent, greedy or hostile, by raw sockets against the process that is really run."""

import contextlib
import itertools
import json
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.responses import StreamingResponse

from distillery.views import Problem

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
KEY = "dk_live_correct-horse"
HASTY = {
    "DISTILLERY_HEAD_SECONDS": "1", "DISTILLERY_KEEP_ALIVE_SECONDS": "1", "DISTILLERY_BODY_SECONDS": "1",
    "DISTILLERY_UNREAD_SECONDS": "1",
}  # fmt: skip
MEBIBYTE = 1 << 20
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="module")
def hasty(api_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service with deadlines of a second."""
    with api_process(tmp_path_factory.mktemp("hasty"), **HASTY) as process:
        process.start()
        yield process


@pytest.fixture(scope="module")
def locked(api_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service with a key and the usual deadlines."""
    with api_process(tmp_path_factory.mktemp("locked"), DISTILLERY_API_KEY=KEY) as process:
        process.start()
        yield process


@pytest.fixture
def started(api_process: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a service for one test."""
    with contextlib.ExitStack() as stack:

        def start(**environment: str) -> Any:
            process = stack.enter_context(api_process(tmp_path, **environment))
            process.start()
            return process

        yield start


def connect(process: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", process.port), timeout=DEADLINE_SECONDS)


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            answer += piece
    return answer


def one_answer(client: socket.socket) -> None:
    """A first exchange, after which the connection stays open."""
    client.sendall(LIVEZ)
    answer = b""
    while not answer.endswith(b'{"status":"ok","checks":{}}'):
        piece = client.recv(65536)
        assert piece, answer
        answer += piece


def exchange(process: Any, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with connect(process) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        return rest(client)


def refused(answer: bytes, status: int, code: str) -> Problem:
    """The problem in a raw answer that must be one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    problem = Problem.model_validate_json(body)
    assert (problem.status, problem.code) == (status, code)
    assert b"x-request-id: %s" % problem.trace_id.encode() in head
    assert problem.detail
    assert problem.hint
    return problem


def alive(process: Any) -> bool:
    return httpx.get(f"{process.url}/livez").status_code == 200


def cut(process: Any, reason: str) -> float:
    """How many connections the service says it has cut for this reason."""
    text = httpx.get(f"{process.url}/metrics").text
    found = re.search(rf'^distillery_connections_cut_total{{reason="{reason}"}} (\S+)$', text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def dribble(client: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send a piece every tenth of a second until the server answers; what it says until it closes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with selectors.DefaultSelector() as waiting:
        waiting.register(client, selectors.EVENT_READ)
        while not waiting.select(0.1):
            assert time.monotonic() < deadline, "the server listens for ever"
            client.sendall(next(pieces))
    return rest(client)


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (bytes([byte]) for byte in itertools.cycle(data))


# Heads.


def test_a_head_that_comes_byte_by_byte_is_told_off_and_closed(hasty: Any) -> None:
    with connect(hasty) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        problem = refused(dribble(client, one_by_one(b"X-Slow: yes\r\n")), 408, "TIMEOUT")
    assert problem.detail == "The head of the request was not whole after 1 seconds."


def test_a_silent_connection_is_closed_without_a_word(hasty: Any) -> None:
    with connect(hasty) as client:
        assert rest(client) == b""


@pytest.mark.parametrize("noise", [b"", b"\r\n"], ids=["silent", "blank lines"])
def test_a_connection_that_rests_is_closed_whatever_it_dribbles(hasty: Any, noise: bytes) -> None:
    with connect(hasty) as client:
        one_answer(client)
        assert (dribble(client, itertools.repeat(noise)) if noise else rest(client)) == b""


def test_a_second_head_has_a_deadline_of_its_own(hasty: Any) -> None:
    with connect(hasty) as client:
        one_answer(client)
        client.sendall(b"GET /livez HT")
        refused(rest(client), 408, "TIMEOUT")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["whole", "without end"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 66000,
        b"GET /" + b"a" * 66000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(9000)),
    ],
    ids=["long header", "long address", "many headers"],
)
def test_a_head_that_is_too_large_is_refused_before_it_ends(locked: Any, head: bytes, end: bytes) -> None:
    problem = refused(exchange(locked, head + end), 431, "HEAD_TOO_LARGE")
    assert problem.detail == "The head of the request is larger than 65536 bytes."
    assert alive(locked)


def test_ten_thousand_ranges_are_refused_as_several(locked: Any, make_worker: Any, tmp_path: Path) -> None:
    job_id = downloadable(locked, make_worker, size=1000)
    header = "bytes=" + ",".join(["0-0"] * 10_000)
    answer = httpx.get(
        f"{locked.url}/v1/jobs/{job_id}/artifacts/student.onnx",
        headers={"Range": header, "Authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */1000"


# Bodies.


def test_a_json_body_that_comes_byte_by_byte_is_told_off(hasty: Any) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with connect(hasty) as client:
        client.sendall(head)
        refused(dribble(client, one_by_one(b" ")), 408, "TIMEOUT")


def test_a_body_that_no_route_reads_does_not_keep_the_connection(locked: Any) -> None:
    with connect(locked) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert dribble(client, one_by_one(b"x")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("flood", "end"),
    [(b"1;" + b"e" * 4000 + b"\r\nx\r\n", b""), (b"T: " + b"t" * 4000 + b"\r\n", b"0\r\n"), (b"t" * 4000, b"0\r\nT: ")],
    ids=["chunk extensions", "trailers", "one endless trailer"],
)
def test_a_flood_around_the_body_is_stopped(locked: Any, flood: bytes, end: bytes) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with connect(locked) as client:
        client.sendall(head + end)
        sent = pump(client, flood)
        refused(rest(client), 400, "BAD_REQUEST")
    assert sent < 64 * MEBIBYTE
    assert alive(locked)


def pump(client: socket.socket, data: bytes) -> int:
    """Send the same again and again until the server has had enough; the bytes that were sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 64 * MEBIBYTE:
            client.sendall(data)
            sent += len(data)
    return sent


UNKEYED = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "flood"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 0x10000 + b"\r\n"),
        (b"Content-Length: 10\r\n\r\n", b" " * 0x10000),
        (b"Content-Length: 99999999999\r\n\r\n", b" " * 0x10000),
        (b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n", b""),
    ],
    ids=["chunked", "lying length", "huge length", "expecting 100", "chunked, expecting 100"],
)
def test_without_the_key_401_is_the_answer_before_the_body(locked: Any, head: bytes, flood: bytes) -> None:
    assert locked.running is not None
    counters = psutil.Process(locked.running.pid)
    with connect(locked) as client:
        before = counters.io_counters().read_chars
        client.sendall(UNKEYED + head)
        if flood:
            pump(client, flood)
        answer = rest(client)
        assert counters.io_counters().read_chars - before < MEBIBYTE
    refused(answer, 401, "UNAUTHORIZED")


def test_what_the_service_reads_is_counted(locked: Any) -> None:
    # Else the test before this one would show nothing.
    counters = psutil.Process(locked.running.pid)
    before = counters.io_counters().read_chars
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    assert httpx.post(f"{locked.url}/v1/jobs", content=b" " * MEBIBYTE, headers=headers).status_code == 400
    assert counters.io_counters().read_chars - before >= MEBIBYTE


# What is no HTTP, or an old or odd one.


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"\x00" * 100,
    ],
    ids=["TLS", "HTTP/2", "SSH", "negative length", "smuggling", "CONNECT", "bytes in the address", "zeros"],
)
def test_what_is_no_request_gets_a_problem_and_the_service_lives(locked: Any, bytes_: bytes) -> None:
    refused(exchange(locked, bytes_), 400, "BAD_REQUEST")
    assert alive(locked)


def test_http_1_0_is_served_and_closed(locked: Any) -> None:
    assert exchange(locked, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b'{"status":"ok","checks":{}}')


def test_requests_one_behind_the_other_are_answered_in_order(locked: Any) -> None:
    answer = exchange(locked, LIVEZ * 5 + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 5
    refused(answer[answer.rindex(b"HTTP/1.1") :], 401, "UNAUTHORIZED")


def test_garbage_behind_a_request_ends_the_connection_when_that_is_answered(locked: Any) -> None:
    answer = exchange(locked, LIVEZ + b"GARBAGE \x00\r\n\r\n")
    assert answer.endswith(b'{"status":"ok","checks":{}}')
    assert answer.count(b"HTTP/1.1") == 1


def test_a_flood_of_requests_is_answered_in_part_and_ended(locked: Any) -> None:
    assert 1 <= exchange(locked, LIVEZ * 5000).count(b"HTTP/1.1 200") < 5000
    assert alive(locked)


# Crowds.


def test_normal_requests_are_answered_while_300_slow_sockets_are_open(started: Any, wait_until: Any) -> None:
    """Row 19: slow clients in numbers."""
    process = started(DISTILLERY_HEAD_SECONDS="3", DISTILLERY_MAX_CONNECTIONS="256")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(process)) for _ in range(300)]
        for number, client in enumerate(slow):
            with contextlib.suppress(ConnectionError):  # those beyond the limit have cost the first ones their place
                client.sendall(b"GET /livez HTTP/1.1\r\nX-Number: %d" % number)
        answers = []
        for _ in range(50):
            answers.append(httpx.post(f"{process.url}/v1/jobs", json=SPEC).status_code)
            answers.append(httpx.get(f"{process.url}/v1/jobs").status_code)
        assert answers == [201, 200] * 50
        assert all(rest(client)[:12] in (b"", b"HTTP/1.1 408", b"HTTP/1.1 503") for client in slow)
    # A client may be cut for one reason only, and at least the 44 beyond the limit made room.
    wait_until(lambda: cut(process, "crowded") + cut(process, "slow_head") + cut(process, "silent") >= 300)
    assert cut(process, "crowded") >= 44


def test_where_all_connections_are_at_work_the_next_is_told_so(started: Any, wait_until: Any) -> None:
    process = started(DISTILLERY_MAX_CONNECTIONS="3")
    job_id = httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(listening(process, job_id)) for _ in range(3)]
        answer = httpx.get(f"{process.url}/v1/jobs")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert Problem.model_validate_json(answer.content).code == "TOO_MANY_CONNECTIONS"
        streams[0].close()
        wait_until(lambda: httpx.get(f"{process.url}/v1/jobs").status_code == 200)


ENDS: dict[str, tuple[bytes, bool]] = {
    "kept alive until the client goes": (LIVEZ, True),
    "closed as asked": (LIVEZ.replace(b"Host", b"Connection: close\r\nHost"), True),
    "HTTP 1.0": (b"GET /livez HTTP/1.0\r\n\r\n", True),
    "one behind the other": (LIVEZ * 3, True),
    "garbage": (b"\x16\x03\x01 hello\r\n\r\n", True),
    "garbage behind a request": (LIVEZ + b"\x00\x01", True),
    "half a head": (b"GET /livez HTTP/1.1\r\nHost", False),
    "a head in the midst of an answer": (LIVEZ + b"GET /live", True),
    "half a body": (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", False),
    "a body that nobody wants": (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", True),
    "gone before the answer": (b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n", False),
    "nothing": (b"", False),
}


def test_however_a_connection_ends_its_place_is_free_again_and_no_more_than_its_place(
    started: Any, wait_until: Any
) -> None:
    process = started(DISTILLERY_MAX_CONNECTIONS="3", DISTILLERY_HEAD_SECONDS="1")
    job_id = httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"]
    for sent, answered in [*ENDS.values()] * 5:
        with connect(process) as client:
            client.sendall(sent)
            assert not answered or client.recv(1)
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(process)) for _ in range(3)]
        assert all(rest(client) == b"" for client in kept), "each was let in, and closed for its silence"
        wait_until(lambda: psutil.Process(process.running.pid).net_connections("tcp")[1:] == [])
        for _ in range(3):
            stack.enter_context(listening(process, job_id))
        assert httpx.get(f"{process.url}/livez").status_code == 503


@contextlib.contextmanager
def listening(process: Any, job_id: str, *, key: str = "") -> Iterator[socket.socket]:
    """A connection with an open event stream."""
    with connect(process) as client:
        head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        client.sendall((head + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n").encode())
        received = b""
        while b'"seq":1' not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
        yield client


def test_a_key_has_so_many_turns_at_once_and_streams_take_none(started: Any, wait_until: Any) -> None:
    process = started(
        DISTILLERY_API_KEY=KEY, DISTILLERY_REQUESTS_PER_KEY="2", DISTILLERY_STREAMS_PER_KEY="3",
        DISTILLERY_TURN_SECONDS="0.2",
    )  # fmt: skip
    with httpx.Client(base_url=process.url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        job_id = http.post("/v1/jobs", json=SPEC).json()["id"]
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(listening(process, job_id, key=KEY))
            assert http.get("/v1/jobs").status_code == 200
            too_many = http.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
            assert (too_many.status_code, too_many.json()["code"]) == (429, "TOO_MANY_REQUESTS")
            for _ in range(2):
                stack.enter_context(connect(process)).sendall(
                    UNKEYED + f"Authorization: Bearer {KEY}\r\nContent-Length: 9\r\n\r\n".encode()
                )
            wait_until(lambda: http.get("/v1/jobs").status_code == 429)
            answer = http.get("/v1/jobs")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert Problem.model_validate_json(answer.content).trace_id == answer.headers["x-request-id"]
            assert http.get("/livez").status_code == 200
        wait_until(lambda: http.get("/v1/jobs").status_code == 200)


# Downloads and streams that nobody reads, or that break off.


def downloadable(process: Any, make_worker: Any, *, size: int) -> str:
    """A finished job with `student.onnx` of this size; its id."""
    headers = {"Authorization": f"Bearer {KEY}"}
    job_id = str(httpx.post(f"{process.url}/v1/jobs", json=SPEC, headers=headers).json()["id"])
    worker = make_worker(process.database_url, process.folder)
    claim = worker.claim(job_id)
    worker.deliver(claim, "student.onnx", b"\x00" * size)
    worker.database.close()
    return job_id


def test_a_client_that_does_not_read_its_download_is_cut_off(hasty: Any, make_worker: Any, wait_until: Any) -> None:
    job_id = downloadable(hasty, make_worker, size=64 * MEBIBYTE)
    before = cut(hasty, "unread")
    with connect(hasty) as client:
        client.sendall(f"GET /v1/jobs/{job_id}/artifacts/student.onnx HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: cut(hasty, "unread") > before)
        assert len(rest(client)) < 64 * MEBIBYTE
    whole = httpx.get(f"{hasty.url}/v1/jobs/{job_id}/artifacts/student.onnx")
    assert len(whole.content) == 64 * MEBIBYTE


def handles(process: Any) -> int:
    return psutil.Process(process.running.pid).num_fds()


def memory(process: Any) -> int:
    return psutil.Process(process.running.pid).memory_info().rss


@pytest.mark.parametrize("kind", ["download", "stream"])
def test_two_hundred_answers_broken_off_leave_nothing_behind(
    locked: Any, make_worker: Any, wait_until: Any, kind: str
) -> None:
    """Row 17: clients that leave in the midst of an answer."""
    job_id = downloadable(locked, make_worker, size=16 * MEBIBYTE)

    def break_off(number: int) -> None:
        if kind == "stream":
            with listening(locked, job_id, key=KEY):
                return
        with connect(locked) as client:
            head = f"GET /v1/jobs/{job_id}/artifacts/student.onnx HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}"
            client.sendall(f"{head}\r\n\r\n".encode())
            assert client.recv(1 + 997 * number)

    for number in range(20):  # what a first use opens for good is no leak
        break_off(number)
    wait_until(lambda: not busy(locked))
    open_before, memory_before = handles(locked), memory(locked)
    for number in range(200):
        break_off(number)
    wait_until(lambda: not busy(locked) and handles(locked) <= open_before + 2, seconds=10)
    assert memory(locked) < memory_before + 64 * MEBIBYTE


def busy(process: Any) -> int:
    """Connections from outside that the process holds."""
    found = psutil.Process(process.running.pid).net_connections(kind="tcp")
    return sum(each.laddr.port == process.port and each.status != psutil.CONN_LISTEN for each in found)


# Stopping, starting.


def test_the_service_stops_cleanly_with_streams_downloads_and_half_heads_open(started: Any, make_worker: Any) -> None:
    process = started(DISTILLERY_STOP_SECONDS="2")
    job_id = httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"]
    finished = downloadable(process, make_worker, size=64 * MEBIBYTE)
    with listening(process, job_id) as stream, connect(process) as head, connect(process) as download:
        head.sendall(b"GET /livez HT")
        download.sendall(f"GET /v1/jobs/{finished}/artifacts/student.onnx HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert download.recv(1)
        assert process.stop(signal.SIGTERM) == 0
        assert b"event: end" not in rest(stream)
        assert rest(head) == b""
        assert len(rest(download)) < 64 * MEBIBYTE


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DISTILLERY_MAX_CONNECTIONS", "many", "is 'many', which is not a whole number"),
        ("DISTILLERY_MAX_CONNECTIONS", "0", "is 0; it must be above 0"),
        ("DISTILLERY_HEAD_SECONDS", "inf", "is inf; it must be above 0"),
        ("DISTILLERY_UNREAD_SECONDS", "-1", "is -1; it must be above 0"),
        ("DISTILLERY_TURN_SECONDS", "soon", "is 'soon', which is not a number of seconds"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(locked: Any, name: str, value: str, said: str) -> None:
    assert said in refusal_to_start(locked, "--port=0", **{name: value})


def test_a_port_that_is_taken_is_named(locked: Any) -> None:
    said = refusal_to_start(locked, f"--port={locked.port}")
    assert f"The service cannot listen on 127.0.0.1:{locked.port}: Address already in use" in said
    assert "Choose another --port" in said


def refusal_to_start(process: Any, option: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "app.serve", option],
        env=process.environment | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stderr


# Rules that no route of ours shows yet, on a bare application.


@pytest.fixture
def guarded() -> Callable[..., Any]:
    """Serves a bare ASGI application behind the gate, in a thread; gives where it listens and what it has cut."""
    from app.bounds import Bounds

    return lambda app, **bounds: serving_guarded(app, Bounds(**bounds))


@contextlib.contextmanager
def serving_guarded(app: Any, bounds: Any) -> Iterator[Any]:
    import threading
    from types import SimpleNamespace

    from app.serve import listen, make_server

    reasons: list[str] = []
    server = make_server(app, bounds=bounds, cut=reasons.append, log_config=None, loop="asyncio")
    listener = listen("127.0.0.1", 0, unread_seconds=bounds.unread_seconds)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", reasons=reasons)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


async def lifespan(receive: Any, send: Any) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


async def swallow(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body of any size, and tells how much came."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message["body"])
        more = message["more_body"]
    body = json.dumps(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    return await send({"type": "http.response.body", "body": body})


async def chatter(scope: Any, receive: Any, send: Any) -> None:
    """An event stream without end."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    answer = StreamingResponse(itertools.repeat(b": chatter\n\n" * 10_000), media_type="text/event-stream")
    return await answer(scope, receive, send)


def test_a_long_upload_must_keep_up_its_rate(guarded: Any) -> None:
    upload = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    with guarded(swallow, body_seconds=3.0) as server:
        with connect(server) as client:
            client.sendall(upload)
            problem = refused(dribble(client, itertools.repeat(b"x" * 1000)), 408, "TIMEOUT")
        assert "fewer than 65536 a second" in problem.detail
        assert server.reasons == ["slow_body"]


def test_a_steady_upload_may_take_longer_than_the_first_deadline(guarded: Any) -> None:
    pieces, piece = 40, b"x" * 20_000
    with guarded(swallow, body_seconds=1.0) as server, connect(server) as client:
        client.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 800000\r\n\r\n")
        for _ in range(pieces):
            client.sendall(piece)
            time.sleep(0.1)  # the pace is what is tested
        assert rest(client).endswith(b"800000")
        assert server.reasons == []


def test_a_client_that_does_not_read_an_event_stream_is_cut_off(guarded: Any, wait_until: Any) -> None:
    with guarded(chatter, unread_seconds=1.0) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "unread" in server.reasons)
        assert rest(client).startswith(b"HTTP/1.1 200")
