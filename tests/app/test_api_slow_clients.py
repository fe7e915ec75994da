"""Clients whose heads and bodies are slow, endless or no HTTP at all, by raw sockets."""

import contextlib
import itertools
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.app.raw_http import (
    KEY,
    LIVEZ,
    MEBIBYTE,
    UNKEYED,
    alive,
    connect,
    downloadable,
    dribble,
    exchange,
    one_answer,
    one_by_one,
    refused,
    rest,
)

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
