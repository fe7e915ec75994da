"""Downloads: digests, ranges, resuming, and what happens when the bytes are not what the database says."""

import base64
import contextlib
import gc
import hashlib
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

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
