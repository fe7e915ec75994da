"""Files in a local folder: whole or not at all, and never other bytes than were recorded."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import CorruptFile, InvalidRequest, NotFound, StorageFull, Unavailable
from store.artifacts import Artifacts

KEY = "jobs/job_1/a1/step-10.ckpt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "some where" / "artifacts"


@pytest.fixture
def artifacts(folder: Path) -> Artifacts:
    return Artifacts(str(folder))


def written(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [0, 1, 100_000, 12_000_000])
def test_a_file_comes_back_as_it_was(artifacts: Artifacts, tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    source, sha256 = written(tmp_path / "source", content)
    artifacts.put(KEY, source)
    assert artifacts.size(KEY) == size
    assert b"".join(artifacts.stream(KEY)) == content
    artifacts.fetch(KEY, tmp_path / "fetched", sha256=sha256)
    assert (tmp_path / "fetched").read_bytes() == content


def test_ranges(artifacts: Artifacts, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", bytes(range(100)))
    artifacts.put(KEY, source)
    for start, end in ((0, 100), (0, 1), (99, 100), (40, 60), (50, None), (0, None), (60, 1000)):
        assert b"".join(artifacts.stream(KEY, start=start, end=end)) == bytes(range(100))[start:end]
    for start, end in ((5, 5), (9, 3)):
        assert list(artifacts.stream(KEY, start=start, end=end)) == []


def test_large_files_come_in_pieces(artifacts: Artifacts, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", bytes(5_000_000))
    artifacts.put(KEY, source)
    assert max(len(piece) for piece in artifacts.stream(KEY)) <= 2 << 20


def test_the_address_may_be_a_file_url(folder: Path, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", b"bytes")
    Artifacts(f"file://{str(folder).replace(' ', '%20')}").put(KEY, source)
    assert files_below(folder) == [KEY]


@pytest.mark.parametrize("url", ["", "s3://", "gs://bucket", "http://host/path", "postgresql://u:p@h/d"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        Artifacts(url)


def test_a_later_put_replaces_the_file(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    for content in (b"first, and longer", b"second"):
        artifacts.put(KEY, written(tmp_path / "source", content)[0])
    assert b"".join(artifacts.stream(KEY)) == b"second"
    assert files_below(folder) == [KEY]


def test_a_reader_keeps_the_file_it_began_with(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"1" * 3_000_000)[0])
    reading = artifacts.stream(KEY)
    first = next(reading)
    artifacts.put(KEY, written(tmp_path / "source", b"2" * 3_000_000)[0])
    assert set(first + b"".join(reading)) == {ord("1")}


def test_what_is_missing_is_not_found_at_once(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=KEY):
        artifacts.stream(KEY)
    with pytest.raises(NotFound):
        artifacts.size(KEY)
    with pytest.raises(NotFound):
        artifacts.fetch(KEY, tmp_path / "fetched", sha256="0" * 64)
    artifacts.delete(KEY)
    assert not (tmp_path / "fetched").exists()


def test_deleting_twice_is_no_error(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"x")[0])
    for _ in range(2):
        artifacts.delete(KEY)
    assert files_below(folder) == []


def test_one_changed_byte_is_noticed(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    source, sha256 = written(tmp_path / "source", random.Random(0).randbytes(5000))
    artifacts.put(KEY, source)
    stored = folder / KEY
    good = stored.read_bytes()
    target = tmp_path / "fetched"
    target.write_bytes(b"what was there before")
    for place in random.Random(1).sample(range(5000), 20):
        stored.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CorruptFile, match=KEY):
            artifacts.fetch(KEY, target, sha256=sha256)
    assert target.read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetched", "some where", "source"]


def test_every_cut_is_noticed(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    source, sha256 = written(tmp_path / "source", random.Random(0).randbytes(1000))
    artifacts.put(KEY, source)
    good = (folder / KEY).read_bytes()
    for length in range(0, 1000, 50):
        (folder / KEY).write_bytes(good[:length])
        with pytest.raises(CorruptFile):
            artifacts.fetch(KEY, tmp_path / "fetched", sha256=sha256)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../outside", "a/../b", "a/..", "a//b", "a/", ".hidden", "a/.hidden", "a\\b", "a b", "a\n",
     "a\x00", "é", "a#1", "x" * 513, "%2e%2e/x", "C:/x"],
)  # fmt: skip
def test_keys_that_could_lead_elsewhere_are_refused(artifacts: Artifacts, tmp_path: Path, key: str) -> None:
    source, _ = written(tmp_path / "source", b"x")
    before = files_below(tmp_path)
    for use in (
        lambda: artifacts.put(key, source),
        lambda: artifacts.fetch(key, tmp_path / "fetched", sha256="0" * 64),
        lambda: artifacts.stream(key),
        lambda: artifacts.size(key),
        lambda: artifacts.delete(key),
    ):
        with pytest.raises(InvalidRequest, match="no key of an artifact"):
            use()
    assert files_below(tmp_path) == before


@given(st.text(max_size=40))
def test_no_key_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    home = tmp_path_factory.getbasetemp() / "keys"
    home.mkdir(exist_ok=True)
    try:
        found = Artifacts(str(home / "inside")).size(key)
    except (InvalidRequest, NotFound):
        return
    raise AssertionError(f"{key!r} has {found} bytes, and nothing was ever stored")


FILLS_UP = """
import resource, signal, sys
from pathlib import Path
from distillery.errors import StorageFull
from store.artifacts import Artifacts

folder, source, target = sys.argv[1:]
artifacts = Artifacts(folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for attempt in (lambda: artifacts.put("jobs/job_1/a1/step-10.ckpt", Path(source)),
                lambda: artifacts.fetch("big", Path(target), sha256="0" * 64)):
    try:
        attempt()
    except StorageFull as error:
        print(error.detail)
"""


def test_a_full_disk_leaves_what_was_there_and_nothing_else(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"the checkpoint before")[0])
    artifacts.put("big", written(tmp_path / "source", bytes(8_000_000))[0])
    command = [sys.executable, "-c", FILLS_UP, str(folder), str(tmp_path / "source"), str(tmp_path / "fetched")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert [line[:21] for line in done.stdout.splitlines()] == ["No space is left for "] * 2
    assert (folder / KEY).read_bytes() == b"the checkpoint before"
    assert files_below(folder) == ["big", KEY]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some where", "source"]


def test_more_than_the_disk_holds_is_refused_before_it_is_tried(artifacts: Artifacts, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 1 << 43)
    with pytest.raises(StorageFull, match="has no space"):
        artifacts.put(KEY, sparse)


def test_ping_tells_whether_the_folder_is_there(artifacts: Artifacts, folder: Path) -> None:
    artifacts.ping()
    folder.rmdir()
    with pytest.raises(Unavailable, match="missing"):
        artifacts.ping()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be made"):
        Artifacts(str(tmp_path / "file" / "artifacts"))
