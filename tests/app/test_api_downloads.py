"""Downloads: digests, ranges, resuming, and what happens when the bytes are not what the database says."""

import base64
import contextlib
import gc
import hashlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.downloads import Presigning
from distillery.client import Client
from distillery.errors import CorruptFile, InvalidRequest
from distillery.views import Artifact, Checkpoint, Page

CONTENT = bytes(random.Random(0).randbytes(3_000_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)
PAGE = b"<!doctype html><title>Report</title>"


@pytest.fixture(scope="module")
def delivered(live: Any) -> Any:
    """A finished job with a large file, an empty one, a report and checkpoints."""
    job_id = live.submit()["id"]
    claim = live.worker.claim(job_id)
    live.worker.deliver(claim, "large.bin", CONTENT)
    live.worker.deliver(claim, "empty.bin", b"")
    live.worker.deliver(claim, "report.json", b'{"summary": "It helped."}', media_type="application/json")
    live.worker.deliver(claim, "report.html", PAGE, media_type="text/html")
    checkpoint_id = live.worker.checkpoint(claim, step=1, content=CONTENT[:1000])
    live.worker.succeed(claim)
    return job_id, checkpoint_id


@pytest.fixture(scope="module")
def large(delivered: Any) -> str:
    return f"/v1/jobs/{delivered[0]}/artifacts/large.bin"


def test_artifacts_and_checkpoints_are_listed_with_digests_and_addresses_that_work(live: Any, delivered: Any) -> None:
    job_id, checkpoint_id = delivered
    artifacts = Page[Artifact].model_validate_json(live.http.get(f"/v1/jobs/{job_id}/artifacts").content)
    assert [entry.name for entry in artifacts.data] == [
        "empty.bin", "large.bin", "report.html", "report.json", "student.safetensors",
    ]  # fmt: skip
    assert artifacts.data[1].sha256 == SHA256
    checkpoints = Page[Checkpoint].model_validate_json(live.http.get(f"/v1/jobs/{job_id}/checkpoints").content)
    assert [entry.id for entry in checkpoints.data] == [checkpoint_id]
    every: list[Any] = [*artifacts.data, *checkpoints.data]
    for entry in every:
        answer = live.http.get(entry.url)
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).hexdigest() == entry.sha256


def test_a_download_tells_all_about_the_file(live: Any, large: str) -> None:
    answer = live.http.get(large)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    expected = {
        "etag": f'"sha256-{SHA256}"',
        "repr-digest": f"sha-256=:{digest}:",
        "content-length": str(SIZE),
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
        "content-disposition": 'attachment; filename="large.bin"',
        "x-content-type-options": "nosniff",
    }
    assert {name: answer.headers[name] for name in expected} == expected


def test_head_tells_the_same_without_the_bytes(live: Any, large: str) -> None:
    whole, head = live.http.get(large), live.http.head(large)
    assert (head.status_code, head.content) == (200, b"")
    changing = {"date", "x-request-id", "server"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in whole.headers.items() if k not in changing
    }


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=10-19", 10, 20),
        ("bytes=-10", SIZE - 10, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes={SIZE - 1}-{SIZE * 9}", SIZE - 1, SIZE),
        ("bytes=1000000-2000000", 1_000_000, 2_000_001),
        ("Bytes = 5-6", 5, 7),
    ],
)
def test_a_range_is_served(live: Any, large: str, wanted: str, start: int, end: int) -> None:
    answer = live.http.get(large, headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == f'"sha256-{SHA256}"'


@pytest.mark.parametrize(
    "wanted", ["items=0-1", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=-", "bytes", "bytes=1-2-3", ""]
)
def test_a_range_that_says_nothing_is_ignored(live: Any, large: str, wanted: str) -> None:
    answer = live.http.get(large, headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize(
    "wanted",
    [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=0-1,5-6", "bytes=" + ",".join(["0-"] * 10_000)],
    ids=lambda wanted: wanted[:20],
)
def test_a_range_outside_the_file_is_refused(live: Any, check_problem: Any, large: str, wanted: str) -> None:
    answer = live.http.get(large, headers={"Range": wanted})
    check_problem(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"sha256-{SHA256}"', 206),
        ('"sha256-other"', 200),
        (f'W/"sha256-{SHA256}"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
def test_resuming_goes_on_only_with_the_same_file(live: Any, large: str, condition: str, status: int) -> None:
    answer = live.http.get(large, headers={"Range": "bytes=100-", "If-Range": condition})
    assert answer.status_code == status
    assert answer.content == (CONTENT[100:] if status == 206 else CONTENT)


@pytest.mark.parametrize(
    ("held", "status"),
    [(f'"sha256-{SHA256}"', 304), (f'"a", W/"sha256-{SHA256}"', 304), ("*", 304), ('"a"', 200), ("", 200)],
)
def test_what_the_client_holds_is_not_sent_again(live: Any, large: str, held: str, status: int) -> None:
    answer = live.http.get(large, headers={"If-None-Match": held})
    assert answer.status_code == status
    assert answer.headers["etag"] == f'"sha256-{SHA256}"'
    assert len(answer.content) == (0 if status == 304 else SIZE)


def test_an_empty_file_is_served_and_has_no_ranges(live: Any, check_problem: Any, delivered: Any) -> None:
    address = f"/v1/jobs/{delivered[0]}/artifacts/empty.bin"
    answer = live.http.get(address)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    check_problem(live.http.get(address, headers={"Range": "bytes=0-"}), 416, "RANGE_NOT_SATISFIABLE")


def test_the_report_comes_as_json_or_as_a_page_that_can_run_nothing(live: Any, delivered: Any) -> None:
    address = f"/v1/jobs/{delivered[0]}/report"
    plain = live.http.get(address)
    assert plain.headers["content-type"] == "application/json"
    assert plain.json() == {"summary": "It helped."}
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = live.http.get(address, headers={"Accept": browser})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == PAGE
    assert page.headers["content-disposition"] == "inline"
    assert page.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    assert plain.headers["vary"] == page.headers["vary"] == "Accept"
    assert plain.headers["etag"] != page.headers["etag"]


def test_a_job_without_a_report_says_why(live: Any, check_problem: Any) -> None:
    queued = live.submit()["id"]
    problem = check_problem(live.http.get(f"/v1/jobs/{queued}/report"), 404, "NOT_FOUND")
    assert "queued" in problem.detail
    assert "at the end" in problem.hint
    live.http.post(f"/v1/jobs/{queued}:cancel").raise_for_status()
    assert "never" in check_problem(live.http.get(f"/v1/jobs/{queued}/report"), 404, "NOT_FOUND").hint


def test_an_object_that_is_gone_or_cut_is_a_problem_and_no_broken_stream(alone: Any, check_problem: Any) -> None:
    job_id = alone.submit()["id"]
    claim = alone.worker.claim(job_id)
    for name in ("gone.bin", "cut.bin"):
        alone.worker.deliver(claim, name, CONTENT)
    stored = {path.name: path for path in Path(alone.app.state.config.artifacts_url).rglob("*.bin")}
    stored["gone.bin"].unlink()
    os.truncate(stored["cut.bin"], 1000)
    for method in ("GET", "HEAD"):
        gone = alone.http.request(method, f"/v1/jobs/{job_id}/artifacts/gone.bin")
        cut = alone.http.request(method, f"/v1/jobs/{job_id}/artifacts/cut.bin")
        assert (gone.status_code, cut.status_code) == (404, 500)
    check_problem(alone.http.get(f"/v1/jobs/{job_id}/artifacts/gone.bin"), 404, "NOT_FOUND")
    problem = check_problem(alone.http.get(f"/v1/jobs/{job_id}/artifacts/cut.bin"), 500, "CORRUPT_FILE")
    assert "1000 bytes" in problem.detail


def damaged(live: Any, name: str, content: bytes) -> tuple[str, str]:
    """An artifact whose stored bytes are other ones than were recorded, though as many; its job and its path."""
    job_id = live.submit()["id"]
    live.worker.deliver(live.worker.claim(job_id), name, content)
    (stored,) = Path(live.app.state.config.artifacts_url).rglob(name)
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return job_id, f"/v1/jobs/{job_id}/artifacts/{name}"


def test_a_damaged_file_breaks_off_before_its_end(alone: Any) -> None:
    _, address = damaged(alone, "damaged.bin", CONTENT)
    for wanted in ({}, {"Range": "bytes=0-"}):
        received = b""
        with (
            pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"),
            alone.http.stream("GET", address, headers=wanted) as answer,
        ):
            assert answer.headers["content-length"] == str(SIZE)
            for block in answer.iter_raw():
                received += block
        assert 0 < len(received) < SIZE
    assert alone.http.get("/livez").status_code == 200


def test_a_small_damaged_file_is_a_problem(alone: Any, check_problem: Any) -> None:
    _, address = damaged(alone, "damaged.bin", b"small")
    problem = check_problem(alone.http.get(address), 500, "CORRUPT_FILE")
    assert "was recorded" in problem.detail
    assert "running the job again" in problem.hint


def test_our_client_keeps_nothing_of_a_damaged_file(alone: Any, tmp_path: Path) -> None:
    job_id, _ = damaged(alone, "damaged.bin", CONTENT)
    target = tmp_path / "mine"
    target.mkdir()
    with Client(alone.url) as client, pytest.raises(CorruptFile, match="Download it again"):
        client.download(job_id, "damaged.bin", to=target)
    assert list(target.iterdir()) == []


def test_clients_that_leave_in_the_middle_leave_no_open_file(live: Any, large: str, wait_until: Any) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    folder = live.app.state.config.artifacts_url

    def open_files() -> int:
        gc.collect()
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found += str(entry.readlink()).startswith(folder)
        return found

    for _ in range(50):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"GET {large} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: open_files() == 0)
    assert live.http.get(large).content == CONTENT


def test_downloads_work_over_postgres_too(postgres_url: str, tmp_path: Path, launch_on: Any) -> None:
    with launch_on(postgres_url, tmp_path) as live:
        job_id = live.succeeded()
        answer = live.http.get(f"/v1/jobs/{job_id}/artifacts/student.safetensors", headers={"Range": "bytes=4-10"})
        assert (answer.status_code, answer.content) == (206, b"weights")


KEY = "dk_live_the_key_to_our_api"


@pytest.fixture
def over_s3(bucket: Any, launch: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An API with a key, whose artifacts lie in S3 and are downloaded from there."""
    monkeypatch.setenv("DISTILLERY_PRESIGNED_DOWNLOADS", "1")
    with launch(artifacts_url=f"s3://{bucket.name}/prefix", api_key=KEY) as live:
        yield live


@pytest.fixture
def in_s3(over_s3: Any) -> str:
    """The path of a large file that a job delivered there."""
    job_id = over_s3.submit()["id"]
    over_s3.worker.deliver(over_s3.worker.claim(job_id), "large.bin", CONTENT)
    return f"/v1/jobs/{job_id}/artifacts/large.bin"


def test_a_presigned_download_comes_from_the_store(over_s3: Any, in_s3: str, bucket: Any) -> None:
    answer = over_s3.http.get(in_s3)
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"].startswith(f"{bucket.endpoint}/{bucket.name}/prefix/jobs/")
    assert "X-Amz-Expires=900&" in answer.headers["location"]
    assert KEY not in answer.headers["location"]
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    expected = {
        "etag": f'"sha256-{SHA256}"',
        "repr-digest": f"sha-256=:{digest}:",
        "cache-control": "private, no-store",
        "referrer-policy": "no-referrer",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    stored = httpx.get(answer.headers["location"])
    assert stored.content == CONTENT
    assert stored.headers["content-disposition"] == 'attachment; filename="large.bin"'


def test_what_needs_no_bytes_is_answered_by_the_api(over_s3: Any, check_problem: Any, in_s3: str) -> None:
    etag = f'"sha256-{SHA256}"'
    head = over_s3.http.head(in_s3)
    assert (head.status_code, head.headers["etag"], head.headers["content-length"]) == (200, etag, str(SIZE))
    assert over_s3.http.get(in_s3, headers={"If-None-Match": etag}).status_code == 304
    check_problem(over_s3.http.get(in_s3, headers={"Range": f"bytes={SIZE}-"}), 416, "RANGE_NOT_SATISFIABLE")


def test_a_range_comes_from_the_store_if_the_file_is_still_the_same(over_s3: Any, in_s3: str) -> None:
    wanted = {"Range": "bytes=100-199"}
    same = wanted | {"If-Range": f'"sha256-{SHA256}"'}
    for headers in (wanted, same):
        answer = over_s3.http.get(in_s3, headers=headers)
        assert answer.status_code == 307
        assert httpx.get(answer.headers["location"], headers=headers).content == CONTENT[100:200]
    changed = over_s3.http.get(in_s3, headers=wanted | {"If-Range": '"sha256-other"'})
    assert (changed.status_code, changed.content) == (200, CONTENT)


def test_what_is_gone_or_cut_in_s3_is_a_problem_and_no_address(
    over_s3: Any, check_problem: Any, in_s3: str, bucket: Any
) -> None:
    (key,) = bucket.objects()
    bucket.write(key, CONTENT[:1000])
    check_problem(over_s3.http.get(in_s3), 500, "CORRUPT_FILE")
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    check_problem(over_s3.http.get(in_s3), 404, "NOT_FOUND")


def test_checkpoints_are_presigned_and_reports_are_not(over_s3: Any) -> None:
    job_id = over_s3.submit()["id"]
    claim = over_s3.worker.claim(job_id)
    checkpoint_id = over_s3.worker.checkpoint(claim, step=1, content=CONTENT)
    over_s3.worker.deliver(claim, "report.html", PAGE, media_type="text/html")
    content = over_s3.http.get(f"/v1/jobs/{job_id}/checkpoints/{checkpoint_id}/content")
    assert httpx.get(content.headers["location"]).content == CONTENT
    page = over_s3.http.get(f"/v1/jobs/{job_id}/report", headers={"Accept": "text/html"})
    assert (page.status_code, page.content) == (200, PAGE)
    assert "content-security-policy" in page.headers


def test_our_client_follows_resumes_and_verifies(over_s3: Any, in_s3: str, bucket: Any, tmp_path: Path) -> None:
    job_id, target = in_s3.split("/")[3], tmp_path / "mine"
    target.mkdir()
    with Client(over_s3.url, api_key=KEY) as client:
        (target / "large.bin.part").write_bytes(CONTENT[:1_000_000])
        assert client.download(job_id, "large.bin", to=target).read_bytes() == CONTENT
        (target / "large.bin").unlink()
        (key,) = bucket.objects()
        bucket.write(key, CONTENT[::-1])
        with pytest.raises(CorruptFile, match="Download it again"):
            client.download(job_id, "large.bin", to=target)
    assert list(target.iterdir()) == []


def test_no_log_line_holds_a_presigned_address(
    bucket: Any, request: Any, capfd: pytest.CaptureFixture[str], wait_until: Any
) -> None:
    over_s3, in_s3 = request.getfixturevalue("over_s3"), request.getfixturevalue("in_s3")
    signature = over_s3.http.get(in_s3).headers["location"].rpartition("X-Amz-Signature=")[2]
    bucket.client.delete_object(Bucket=bucket.name, Key=next(iter(bucket.objects())))
    over_s3.http.get(in_s3)
    logged = ""

    def all_is_logged() -> bool:
        nonlocal logged
        logged += capfd.readouterr().err
        return '"status": 307' in logged and '"status": 404' in logged

    wait_until(all_is_logged)
    assert not any(secret in logged for secret in ("X-Amz", signature, bucket.endpoint, KEY))


@pytest.mark.parametrize("switch", ["0", None])
def test_s3_is_hidden_behind_the_api_unless_asked_otherwise(
    bucket: Any, launch: Any, monkeypatch: pytest.MonkeyPatch, switch: str | None
) -> None:
    if switch:
        monkeypatch.setenv("DISTILLERY_PRESIGNED_DOWNLOADS", switch)
    with launch(artifacts_url=f"s3://{bucket.name}") as live:
        job_id = live.submit()["id"]
        live.worker.deliver(live.worker.claim(job_id), "large.bin", CONTENT)
        address = f"/v1/jobs/{job_id}/artifacts/large.bin"
        whole, part = live.http.get(address), live.http.get(address, headers={"Range": "bytes=100-"})
        assert (whole.status_code, whole.content) == (200, CONTENT)
        assert (part.status_code, part.content) == (206, CONTENT[100:])


def test_a_local_folder_has_nothing_to_sign(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_PRESIGNED_DOWNLOADS", "1")
    with launch() as live:
        job_id = live.succeeded()
        assert live.http.get(f"/v1/jobs/{job_id}/artifacts/student.safetensors").status_code == 200


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"DISTILLERY_PRESIGNED_SECONDS": "60"}, None),
        ({"DISTILLERY_PRESIGNED_DOWNLOADS": "no"}, None),
        ({"DISTILLERY_PRESIGNED_DOWNLOADS": "1"}, 900),
        ({"DISTILLERY_PRESIGNED_DOWNLOADS": " True ", "DISTILLERY_PRESIGNED_SECONDS": "60"}, 60),
    ],
)
def test_presigning_as_the_environment_says(environment: dict[str, str], seconds: float | None) -> None:
    assert Presigning.from_environment(environment).seconds == seconds


@pytest.mark.parametrize(
    "wrong", [{"DOWNLOADS": "maybe"}, {"SECONDS": "0"}, {"SECONDS": "604801"}, {"SECONDS": "nan"}, {"SECONDS": "x"}]
)
def test_presigning_that_cannot_be_meant_is_refused(wrong: dict[str, str]) -> None:
    environment = {"DOWNLOADS": "1"} | wrong
    with pytest.raises(InvalidRequest, match=f"DISTILLERY_PRESIGNED_{next(iter(wrong))}"):
        Presigning.from_environment({f"DISTILLERY_PRESIGNED_{name}": value for name, value in environment.items()})
