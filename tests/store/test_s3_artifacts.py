"""Files in S3: the real S3 client, against a server of the few verbs it uses."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from distillery.errors import CorruptFile, NotFound, Unavailable
from store.artifacts import Artifacts

KEY = "jobs/job_1/a1/step-10.ckpt"


class Bucket(BaseHTTPRequestHandler):
    """Objects by path, whole and in parts, as far as S3's REST interface is needed here."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    parts: dict[int, bytes]
    headers_seen: list[str]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of the parent
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", *, size: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.send_header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        self.headers_seen.append(self.headers.get("Authorization", ""))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def where(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query, keep_blank_values=True)

    def do_PUT(self) -> None:
        path, query = self.where
        content = self.body()
        if "partNumber" in query:
            self.parts[int(query["partNumber"][0])] = content
        else:
            self.objects[path] = content
        self.answer(200, ETag='"tag"')

    def do_POST(self) -> None:
        path, query = self.where
        content = self.body()
        if "delete" in query:
            gone = re.findall(r"<Key>(.*?)</Key>", content.decode())
            for key in gone:
                self.objects.pop(f"/bucket/{key}", None)
            told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in gone)
            self.answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        elif "uploads" in query:
            self.parts.clear()
            self.answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        else:
            self.objects[path] = b"".join(self.parts[number] for number in sorted(self.parts))
            self.answer(200, b"<CompleteMultipartUploadResult><ETag>tag</ETag></CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        path, _ = self.where
        self.body()
        if not path.startswith("/bucket/"):
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif path not in self.objects:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            whole = self.objects[path]
            start, end = int(wanted[1]), min(int(wanted[2] or len(whole) - 1), len(whole) - 1)
            place = f"bytes {start}-{end}/{len(whole)}"
            self.answer(206, whole[start : end + 1], Content_Range=place, ETag='"tag"')
        else:
            self.answer(200, self.objects[path], ETag='"tag"')

    def do_HEAD(self) -> None:
        path, _ = self.where
        found = self.objects.get(path)
        self.answer(404 if found is None else 200, size=0 if found is None else len(found), ETag='"tag"')


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """A server with one empty bucket, told to the client by the usual environment."""
    handler = type("OwnBucket", (Bucket,), {"objects": {}, "parts": {}, "headers_seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("size", [0, 1000, 12_000_000])
def test_a_file_comes_back_as_it_was(bucket: type[Bucket], tmp_path: Path, size: int) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    (tmp_path / "source").write_bytes(content)
    artifacts = Artifacts("s3://bucket/some/prefix")
    artifacts.put(KEY, tmp_path / "source")
    assert bucket.objects == {f"/bucket/some/prefix/{KEY}": content}
    assert all("AWS4-HMAC-SHA256" in each for each in bucket.headers_seen)
    assert artifacts.size(KEY) == size
    artifacts.fetch(KEY, tmp_path / "fetched", sha256=hashlib.sha256(content).hexdigest())
    assert (tmp_path / "fetched").read_bytes() == content
    if size:
        assert b"".join(artifacts.stream(KEY, start=5, end=25)) == content[5:25]
        assert b"".join(artifacts.stream(KEY, start=size - 3)) == content[-3:]


def test_damage_is_noticed(bucket: type[Bucket], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"good bytes")
    artifacts = Artifacts("s3://bucket")
    artifacts.put(KEY, tmp_path / "source")
    bucket.objects[f"/bucket/{KEY}"] = b"gOod bytes"
    with pytest.raises(CorruptFile):
        artifacts.fetch(KEY, tmp_path / "fetched", sha256=hashlib.sha256(b"good bytes").hexdigest())
    assert not (tmp_path / "fetched").exists()


def test_what_is_missing_is_not_found(bucket: type[Bucket]) -> None:
    artifacts = Artifacts("s3://bucket")
    for use in (artifacts.stream, artifacts.size):
        with pytest.raises(NotFound):
            use(KEY)
    artifacts.delete(KEY)


def test_a_file_is_deleted(bucket: type[Bucket], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"bytes")
    artifacts = Artifacts("s3://bucket/prefix")
    artifacts.put(KEY, tmp_path / "source")
    artifacts.delete(KEY)
    assert bucket.objects == {}


def test_ping_tells_a_bucket_that_is_there_from_one_that_is_not(bucket: type[Bucket]) -> None:
    Artifacts("s3://bucket").ping()
    with pytest.raises(Unavailable):
        Artifacts("s3://other").ping()


def test_no_server_is_unavailable(bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch, unused_port: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(Unavailable, match="s3://bucket failed"):
        Artifacts("s3://bucket").ping()
