"""Downloads from a peer that breaks off, changes and corrupts: the file is either whole and right, or not there."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillery.client import AsyncClient, Client, Timeouts
from distillery.download import Transfer
from distillery.errors import CorruptFile, InvalidRequest, NotFound, ServiceRefused, Unavailable, WrongState

JOB_ID = "job_" + "0" * 26
CONTENT = bytes(range(256)) * 2000
SHORT = Timeouts(connect=1, read=2, write=2, outage=2)
Download = Callable[..., Path]


async def _download(url: str, name: str, **options: Any) -> Path:
    async with AsyncClient(url, timeouts=SHORT) as client:
        return await client.download(JOB_ID, name, **options)


@pytest.fixture(params=["sync", "async"])
def download(request: pytest.FixtureRequest) -> Download:
    """`download(url, name, to=...)`, once with each client."""

    def downloaded(url: str, name: str = "student.safetensors", **options: Any) -> Path:
        if request.param == "async":
            return asyncio.run(_download(url, name, **options))
        with Client(url, timeouts=SHORT) as client:
            return client.download(JOB_ID, name, **options)

    return downloaded


def listing(peer: Any, content: bytes = CONTENT) -> Any:
    return peer.says({"data": [peer.artifact(content).model_dump(mode="json")]})


def rest(peer: Any, start: int, content: bytes = CONTENT) -> Any:
    headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return peer.says(content[start:], status=206, headers=headers, kind="application/octet-stream")


def test_a_file_arrives_whole_and_only_then_has_its_name(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT)]
    told: list[tuple[int, int]] = []
    path = download(peer.url, to=tmp_path, on_progress=lambda here, whole: told.append((here, whole)))
    assert path == tmp_path / "student.safetensors"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [each.name for each in tmp_path.iterdir()] == ["student.safetensors"]
    assert peer.seen[1].headers["accept-encoding"] == "identity"
    assert "range" not in peer.seen[1].headers


def test_the_target_may_be_a_file_in_a_folder_to_be_made(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT)]
    path = download(peer.url, to=tmp_path / "new" / "small.safetensors")
    assert path.read_bytes() == CONTENT


def test_a_broken_download_goes_on_where_it_stopped(download: Download, peer: Any, tmp_path: Path) -> None:
    cut = peer.breaks_off(CONTENT, status=200, after=100_000, headers={})
    peer.script = [listing(peer), cut, peer.hangs_up, rest(peer, 100_000)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert [request.headers["range"] for request in peer.seen[2:]] == ["bytes=100000-"] * 2


def test_a_later_command_goes_on_where_an_earlier_one_stopped(download: Download, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(CONTENT[:70_000])
    peer.script = [listing(peer), rest(peer, 70_000)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert not (tmp_path / "student.safetensors.part").exists()


def test_all_bytes_already_there_need_no_further_request(download: Download, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(CONTENT)
    peer.script = [listing(peer)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert [each.path for each in peer.seen] == [f"/v1/jobs/{JOB_ID}/artifacts"] * 2


def test_a_file_that_changed_on_the_service_is_fetched_afresh(download: Download, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(b"of an older file")
    changed = {"ETag": '"sha256-of-another-file"', "Content-Range": f"bytes 16-{len(CONTENT) - 1}/{len(CONTENT)}"}
    peer.script = [listing(peer), peer.says(CONTENT[16:], status=206, headers=changed), peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"foreign bytes", b"x" * (len(CONTENT) + 1)])
def test_what_a_foreign_download_left_does_no_harm(download: Download, peer: Any, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(left)
    again = rest(peer, len(left)) if len(left) < len(CONTENT) else peer.says(CONTENT)
    peer.script = [listing(peer), again, peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [206, 416])
def test_a_range_that_was_not_asked_for_starts_the_file_afresh(
    download: Download, peer: Any, tmp_path: Path, status: int
) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(CONTENT[:10])
    odd = rest(peer, 5) if status == 206 else peer.problem(416, "RANGE_NOT_SATISFIABLE", "No such range.")
    peer.script = [listing(peer), odd, peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert "range" not in peer.seen[2].headers


def test_wrong_bytes_are_fetched_once_more(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT[::-1]), peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT


def test_bytes_that_stay_wrong_leave_nothing_behind(download: Download, peer: Any, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"the one from last week")
    peer.script = [listing(peer), peer.says(CONTENT[::-1])]
    with pytest.raises(CorruptFile, match="but the service says"):
        download(peer.url, to=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["student.safetensors"]
    assert (tmp_path / "student.safetensors").read_bytes() == b"the one from last week"


def test_more_bytes_than_announced_are_refused(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT + b"!")]
    with pytest.raises(CorruptFile, match="more than the"):
        download(peer.url, to=tmp_path)
    assert not (tmp_path / "student.safetensors").exists()


def test_a_name_the_job_does_not_have_is_answered_with_those_it_has(
    download: Download, peer: Any, tmp_path: Path
) -> None:
    peer.script = [listing(peer)]
    with pytest.raises(NotFound) as caught:
        download(peer.url, "student.onnx", to=tmp_path)
    assert caught.value.hint == "It has: student.safetensors."


@pytest.mark.parametrize("name", ["../student.safetensors", "/etc/passwd", ".."])
def test_a_name_cannot_leave_the_folder(download: Download, peer: Any, tmp_path: Path, name: str) -> None:
    peer.script = [peer.says({"data": [peer.artifact(CONTENT, name=name).model_dump(mode="json")]})]
    with pytest.raises(InvalidRequest, match="not a plain file name"):
        download(peer.url, name, to=tmp_path)


def test_a_refused_download_says_why(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.problem(409, "CORRUPT_FILE", "The stored file is damaged.")]
    with pytest.raises(ServiceRefused, match="stored file is damaged"):
        download(peer.url, to=tmp_path)


def test_a_service_that_stays_away_is_given_up_and_the_part_kept(download: Download, peer: Any, tmp_path: Path) -> None:
    cut = peer.breaks_off(CONTENT, status=200, after=50_000, headers={})
    peer.script = [listing(peer), cut, peer.hangs_up]
    with pytest.raises(Unavailable):
        download(peer.url, to=tmp_path)
    assert (tmp_path / "student.safetensors.part").read_bytes() == CONTENT[:50_000]


def test_a_file_that_is_cut_on_the_service_is_given_up(download: Download, peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT[:50_000])]
    with pytest.raises(Unavailable, match="462,000 bytes early"):
        download(peer.url, to=tmp_path)


def test_two_downloads_into_one_file_do_not_mix(peer: Any, tmp_path: Path) -> None:
    artifact = peer.artifact(CONTENT)
    with (
        Transfer(artifact, to=tmp_path),
        pytest.raises(WrongState, match="Another process"),
        Transfer(artifact, to=tmp_path),
    ):
        pass


def test_a_full_disk_is_told_and_what_came_is_kept(peer: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), peer.says(CONTENT)]
    code = f"""
import resource
from pathlib import Path
from distillery.client import Client
from distillery.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))
try:
    Client({peer.url!r}).download({JOB_ID!r}, to=Path({str(tmp_path)!r}))
except StorageFull as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "There is no room for" in told
    assert "run the same command again" in told
    assert (tmp_path / "student.safetensors.part").read_bytes() == CONTENT[:200_000]


@pytest.fixture
def store(peer: Any, serving: Any) -> Any:
    """A second peer, as the store to which the first one sends downloads."""
    store = type(peer)()
    serving(store, 0)
    return store


def sends_to(peer: Any, store: Any) -> Any:
    address = f"{store.url}/bucket/student.safetensors?X-Amz-Signature=open-sesame"
    etag = f'"sha256-{peer.artifact(CONTENT).sha256}"'
    return peer.says(b"", status=307, headers={"Location": address, "ETag": etag})


def test_the_store_that_the_service_names_is_not_told_our_key(peer: Any, store: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), sends_to(peer, store)]
    store.script = [peer.says(CONTENT)]

    async def again() -> Path:
        async with AsyncClient(peer.url, api_key="dk_live_secret", timeouts=SHORT) as client:
            return await client.download(JOB_ID, to=tmp_path / "async")

    with Client(peer.url, api_key="dk_live_secret", timeouts=SHORT) as client:
        assert client.download(JOB_ID, to=tmp_path / "sync").read_bytes() == CONTENT
    peer.script = [*peer.script, listing(peer), sends_to(peer, store)]
    assert asyncio.run(again()).read_bytes() == CONTENT
    assert all(request.headers["authorization"] == "Bearer dk_live_secret" for request in peer.seen)
    assert len(store.seen) == 2
    assert not any("dk_live_secret" in str(request) for request in store.seen)


def test_a_download_that_breaks_off_at_the_store_goes_on_by_way_of_the_service(
    download: Download, peer: Any, store: Any, tmp_path: Path
) -> None:
    peer.script = [listing(peer), sends_to(peer, store)]
    store.script = [store.breaks_off(CONTENT, status=200, after=100_000, headers={}), rest(peer, 100_000)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert [request.headers.get("range") for request in peer.seen[1:]] == [None, "bytes=100000-"]
    assert [request.headers.get("range") for request in store.seen] == [None, "bytes=100000-"]


def test_a_file_that_the_service_has_changed_is_not_pieced_together(
    download: Download, peer: Any, store: Any, tmp_path: Path
) -> None:
    (tmp_path / "student.safetensors.part").write_bytes(CONTENT[:10])
    elsewhere = {"Location": f"{store.url}/other", "ETag": '"sha256-of-another-file"'}
    peer.script = [listing(peer), peer.says(b"", status=307, headers=elsewhere), sends_to(peer, store)]
    store.script = [rest(peer, 10), peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT
    assert "range" not in store.seen[1].headers


def test_a_busy_store_is_asked_again(download: Download, peer: Any, store: Any, tmp_path: Path) -> None:
    peer.script = [listing(peer), sends_to(peer, store)]
    store.script = [peer.says("<Error><Code>SlowDown</Code></Error>", status=503), peer.says(CONTENT)]
    assert download(peer.url, to=tmp_path).read_bytes() == CONTENT


def test_a_store_that_refuses_is_told_without_the_address(
    download: Download, peer: Any, store: Any, tmp_path: Path
) -> None:
    peer.script = [listing(peer), sends_to(peer, store)]
    store.script = [peer.says("<Error><Code>AccessDenied</Code></Error>", status=403)]
    with pytest.raises(ServiceRefused, match=r"download to 127\.0\.0\.1, and was answered with 403") as caught:
        download(peer.url, to=tmp_path)
    assert "DISTILLERY_PRESIGNED_DOWNLOADS=0" in caught.value.hint
    assert "open-sesame" not in str(caught.value)


def test_a_store_that_cannot_be_reached_is_not_taken_for_the_service(
    download: Download, peer: Any, unused_port: Any, tmp_path: Path
) -> None:
    address = {"Location": f"http://localhost:{unused_port()}/x?X-Amz-Signature=open-sesame"}
    peer.script = [listing(peer), peer.says(b"", status=307, headers=address)]
    with pytest.raises(Unavailable, match="sent this download to localhost") as caught:
        download(peer.url, to=tmp_path)
    assert "DISTILLERY_PRESIGNED_DOWNLOADS=0" in caught.value.hint
    assert "open-sesame" not in str(caught.value)
