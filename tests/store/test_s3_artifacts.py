"""What only S3 can show: uploads in parts, presigned addresses, and a server that refuses, breaks off or hangs.

The server is a real one. Where it must misbehave, a door stands before it.
"""

import hashlib
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from distillery.errors import NotFound, Unavailable
from store.artifacts import Artifacts, part_bytes

KEY = "jobs/job_1/a1/step-10.ckpt"
LARGE = random.Random(0).randbytes(20_000_000)

Verdict = Literal["pass", "refuse", "cut"]


@dataclass
class Door:
    """Stands before the server and asks `judge`, with method and path, what to do with each request."""

    judge: Callable[[str, str], Verdict] = lambda _method, _path: "pass"
    seen: list[str] = field(default_factory=list)
    vouched: list[bool] = field(default_factory=list)
    """For each request: whether it is signed, and its signature covers the sha256 of its body."""


class Passage(BaseHTTPRequestHandler):
    """Carries a request to the server and its answer back, as the door lets it."""

    protocol_version = "HTTP/1.1"
    door: Door
    upstream: str

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        signature = self.headers.get("Authorization", "")
        covers = signature.startswith("AWS4-HMAC-SHA256 ") and "x-amz-content-sha256" in signature
        hashed = self.headers.get("x-amz-content-sha256") == hashlib.sha256(body).hexdigest()
        self.door.vouched.append(covers and hashed)
        self.door.seen.append(f"{self.command} {self.path}")
        verdict = self.door.judge(self.command, self.path)
        if verdict == "refuse":
            self.answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        else:
            self.forward(body, cut=verdict == "cut")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  (http.server's names)

    def forward(self, body: bytes, *, cut: bool) -> None:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        answer = httpx.request(self.command, self.upstream + self.path, headers=kept, content=body, timeout=60)
        headers = {name: value for name, value in answer.headers.items() if name != "connection"}
        self.answer(answer.status_code, headers, answer.content[: 1_500_000 if cut else None])
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Listener(ThreadingHTTPServer):
    """Clients that are killed are part of the tests."""

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def door(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """The way to the bucket's server for all that is opened from now on."""
    door = Door()
    listener = Listener(("127.0.0.1", 0), type("OwnPassage", (Passage,), {"door": door, "upstream": bucket.endpoint}))
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.server_port}")
    yield door
    listener.shutdown()
    thread.join()
    listener.server_close()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_large_file_goes_up_in_parts_and_a_small_one_whole(bucket: Any, door: Door, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}/prefix")
    artifacts.put("large", written(tmp_path / "large", LARGE))
    uploaded = [parse_qs(urlsplit(each).query) for each in door.seen if each.startswith("PUT ")]
    assert sorted(query["partNumber"] for query in uploaded) == [["1"], ["2"], ["3"]]
    artifacts.put("small", written(tmp_path / "small", b"small"))
    assert door.seen[-2:] == [f"PUT /{bucket.name}/prefix/small", f"HEAD /{bucket.name}/prefix/small"]
    assert bucket.objects() == {"prefix/large": LARGE, "prefix/small": b"small"}
    # The server itself tells from how many parts it put an object together.
    heads = [bucket.client.head_object(Bucket=bucket.name, Key=f"prefix/{name}") for name in ("large", "small")]
    assert [head["ETag"].strip('"').partition("-")[2] for head in heads] == ["3", ""]
    assert bucket.unfinished() == []


@pytest.mark.parametrize("size", [0, 8 << 20, 5 << 30, 100 << 30, 5 << 40])
def test_no_file_needs_more_parts_than_s3_takes(size: int) -> None:
    assert 5 << 20 <= part_bytes(size) <= 5 << 30
    assert size / part_bytes(size) <= 10_000


@pytest.mark.parametrize("part", [1, 8])
def test_an_upload_that_is_refused_half_way_shows_nothing(bucket: Any, door: Door, tmp_path: Path, part: int) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}")
    artifacts.put(KEY, written(tmp_path / "source", b"the checkpoint before"))
    written(tmp_path / "source", LARGE * 3)  # more parts than are sent at once
    door.judge = lambda _method, path: "refuse" if f"partNumber={part}&" in path else "pass"
    for key in (KEY, "jobs/job_1/a1/new"):
        with pytest.raises(Unavailable, match="failed at") as caught:
            artifacts.put(key, tmp_path / "source")
        assert caught.value.hint == "Check the keys to the store."
    assert bucket.objects() == {KEY: b"the checkpoint before"}
    assert bucket.unfinished() == []


PUTS_ONCE = """
import sys
from pathlib import Path
from store.artifacts import Artifacts

url, key, source = sys.argv[1:]
Artifacts(url).put(key, Path(source))
"""


def test_a_writer_killed_before_its_last_part_shows_nothing(bucket: Any, door: Door, tmp_path: Path) -> None:
    Artifacts(f"s3://{bucket.name}").put(KEY, written(tmp_path / "source", b"the checkpoint before"))
    arrived, killed = threading.Event(), threading.Event()

    def hold(_method: str, path: str) -> Verdict:
        if "partNumber=3" in path:
            arrived.set()
            assert killed.wait(60)
        return "pass"

    door.judge = hold
    written(tmp_path / "source", LARGE)
    command = [sys.executable, "-c", PUTS_ONCE, f"s3://{bucket.name}", KEY, str(tmp_path / "source")]
    with subprocess.Popen(command) as writer:
        assert arrived.wait(60)
        writer.kill()
    killed.set()
    assert bucket.objects() == {KEY: b"the checkpoint before"}
    assert bucket.unfinished() == [KEY], "only a rule of the bucket can clear this away; the manual says which"


def test_a_download_that_breaks_off_once_goes_on(bucket: Any, door: Door, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}")
    artifacts.put(KEY, written(tmp_path / "source", LARGE))
    cut_once = iter(["cut"])
    door.judge = lambda method, _path: next(cut_once, "pass") if method == "GET" else "pass"  # type: ignore[return-value]
    assert b"".join(artifacts.stream(KEY)) == LARGE


def test_a_download_that_always_breaks_off_is_no_file(bucket: Any, door: Door, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}")
    artifacts.put(KEY, written(tmp_path / "source", LARGE))
    door.judge = lambda method, _path: "cut" if method == "GET" else "pass"
    with pytest.raises(Unavailable, match="failed at"):
        artifacts.fetch(KEY, tmp_path / "fetched", sha256="0" * 64)
    assert not (tmp_path / "fetched").exists()


def test_every_request_is_signed_and_vouches_for_its_body(bucket: Any, door: Door, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}")
    artifacts.put(KEY, written(tmp_path / "source", LARGE))
    artifacts.delete(KEY)
    assert len(door.seen) == len(door.vouched) >= 7
    assert all(door.vouched)


def test_refused_keys_say_so(bucket: Any, door: Door) -> None:
    door.judge = lambda _method, _path: "refuse"
    with pytest.raises(Unavailable) as caught:
        Artifacts(f"s3://{bucket.name}").ping()
    assert caught.value.hint == "Check the keys to the store."


def test_anybody_may_download_from_a_presigned_address_for_a_while(bucket: Any, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}/prefix")
    artifacts.put("jobs/job_1/a1/student.onnx", written(tmp_path / "source", LARGE))
    address = artifacts.presigned("jobs/job_1/a1/student.onnx", seconds=900)
    assert address is not None
    query = parse_qs(urlsplit(address).query)
    assert query["X-Amz-Expires"] == ["900"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert "secret" not in address
    whole, part = httpx.get(address), httpx.get(address, headers={"Range": "bytes=100-199"})
    assert (whole.status_code, whole.content) == (200, LARGE)
    assert (part.status_code, part.content) == (206, LARGE[100:200])
    assert whole.headers["content-disposition"] == 'attachment; filename="student.onnx"'


def test_ping_tells_a_bucket_that_is_there_from_one_that_is_not(bucket: Any) -> None:
    Artifacts(f"s3://{bucket.name}").ping()
    with pytest.raises(Unavailable):
        Artifacts("s3://another-bucket").ping()
    with pytest.raises(Unavailable):
        list(Artifacts("s3://another-bucket").listed("jobs"))


def test_no_server_is_unavailable(bucket: Any, monkeypatch: pytest.MonkeyPatch, unused_port: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port()}")
    artifacts = Artifacts(f"s3://{bucket.name}")
    with pytest.raises(Unavailable, match=f"s3://{bucket.name} failed"):
        artifacts.ping()


def test_what_is_gone_while_it_is_listed_is_removed_quietly(bucket: Any, tmp_path: Path) -> None:
    artifacts = Artifacts(f"s3://{bucket.name}")
    artifacts.put(KEY, written(tmp_path / "source", b"bytes"))
    ((listed,),) = artifacts.listed("jobs")
    for _ in range(2):
        artifacts.remove(listed)
    with pytest.raises(NotFound):
        artifacts.size(KEY)
