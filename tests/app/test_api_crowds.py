"""Clients in numbers, clients that do not read what they asked for, and how the service starts and stops."""

import contextlib
import signal
import subprocess
import sys
from typing import Any

import httpx
import psutil
import pytest

from distillery.views import Problem
from tests.app.raw_http import (
    KEY,
    LIVEZ,
    MEBIBYTE,
    SPEC,
    UNKEYED,
    connect,
    cut,
    downloadable,
    listening,
    rest,
)

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
