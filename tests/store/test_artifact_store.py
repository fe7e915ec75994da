"""The artifact store, in a local folder and in S3: files are whole or not there, and never other bytes than recorded.

What only a folder can show comes after.
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import CorruptFile, InvalidRequest, NotFound, StorageFull, Unavailable
from store.artifacts import Artifacts

KEY = "jobs/job_1/a1/step-10.ckpt"


@pytest.fixture
def artifacts(folder: Path) -> Artifacts:
    return Artifacts(str(folder))


def written(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def fed_by_a_pipe(path: Path, content: bytes) -> Iterator[Path]:
    """A source that says that it is empty and then gives bytes on and on: no look at its size can foresee them."""
    os.mkfifo(path)

    def feed() -> None:
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            pipe.write(content)

    feeder = threading.Thread(target=feed)
    feeder.start()
    yield path
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # lets a feeder go whom nobody has read
    feeder.join()


@pytest.mark.parametrize("size", [0, 1, 100_000, 1 << 20, 20_000_000])
def test_a_file_comes_back_as_it_was(place: Any, tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    source, sha256 = written(tmp_path / "source", content)
    place.artifacts.put(KEY, source)
    assert place.keys() == [KEY]
    assert place.read(KEY) == content
    assert place.artifacts.size(KEY) == size
    assert b"".join(place.artifacts.stream(KEY)) == content
    assert b"".join(place.artifacts.verified(KEY, sha256=sha256)) == content
    place.artifacts.fetch(KEY, tmp_path / "fetched", sha256=sha256)
    assert (tmp_path / "fetched").read_bytes() == content


def test_ranges(place: Any, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", bytes(range(100)))
    place.artifacts.put(KEY, source)
    for start, end in ((0, 100), (0, 1), (99, 100), (40, 60), (50, None), (0, None), (60, 1000)):
        assert b"".join(place.artifacts.stream(KEY, start=start, end=end)) == bytes(range(100))[start:end]
    for start, end in ((5, 5), (9, 3)):
        assert list(place.artifacts.stream(KEY, start=start, end=end)) == []


def test_large_files_come_in_pieces(place: Any, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", bytes(5_000_000))
    place.artifacts.put(KEY, source)
    assert max(len(piece) for piece in place.artifacts.stream(KEY)) <= 2 << 20


def test_a_later_put_replaces_the_file(place: Any, tmp_path: Path) -> None:
    for content in (b"first, and longer", b"second"):
        place.artifacts.put(KEY, written(tmp_path / "source", content)[0])
    assert place.read(KEY) == b"second"
    assert place.keys() == [KEY]


def test_what_is_missing_is_not_found_at_once(place: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=KEY):
        place.artifacts.stream(KEY)
    with pytest.raises(NotFound):
        place.artifacts.verified(KEY, sha256="0" * 64)
    with pytest.raises(NotFound):
        place.artifacts.size(KEY)
    with pytest.raises(NotFound):
        place.artifacts.fetch(KEY, tmp_path / "fetched", sha256="0" * 64)
    assert not (tmp_path / "fetched").exists()


def test_deleting_twice_is_no_error(place: Any, tmp_path: Path) -> None:
    place.artifacts.put(KEY, written(tmp_path / "source", b"x")[0])
    for _ in range(2):
        place.artifacts.delete(KEY)
    assert place.keys() == []


def test_one_changed_byte_is_noticed(place: Any, tmp_path: Path) -> None:
    good = random.Random(0).randbytes(5000)
    source, sha256 = written(tmp_path / "source", good)
    place.artifacts.put(KEY, source)
    target = tmp_path / "fetched"
    target.write_bytes(b"what was there before")
    for at in random.Random(1).sample(range(5000), 20):
        place.write(KEY, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(CorruptFile, match=KEY):
            place.artifacts.fetch(KEY, target, sha256=sha256)
    assert target.read_bytes() == b"what was there before"
    assert {path.name for path in tmp_path.iterdir()} - {"some where"} == {"fetched", "source"}


def test_every_cut_is_noticed(place: Any, tmp_path: Path) -> None:
    good = random.Random(0).randbytes(1000)
    source, sha256 = written(tmp_path / "source", good)
    place.artifacts.put(KEY, source)
    for length in range(0, 1000, 10):
        place.write(KEY, good[:length])
        with pytest.raises(CorruptFile):
            place.artifacts.fetch(KEY, tmp_path / "fetched", sha256=sha256)
    assert not (tmp_path / "fetched").exists()


def test_of_a_damaged_file_the_last_piece_is_never_given(place: Any, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(5_000_000)
    place.artifacts.put(KEY, written(tmp_path / "source", content)[0])
    given: list[bytes] = []
    with pytest.raises(CorruptFile, match="was recorded"):
        given.extend(place.artifacts.verified(KEY, sha256="0" * 64))
    assert 0 < len(b"".join(given)) < len(content)


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../outside", "a/../b", "a/..", "a//b", "a/", ".hidden", "a/.hidden", "a\\b", "a b", "a\n",
     "a\x00", "é", "a#1", "x" * 513, "%2e%2e/x", "C:/x"],
)  # fmt: skip
def test_keys_that_could_lead_elsewhere_are_refused(place: Any, tmp_path: Path, key: str) -> None:
    source, _ = written(tmp_path / "source", b"x")
    before = files_below(tmp_path)
    for use in (
        lambda: place.artifacts.put(key, source),
        lambda: place.artifacts.fetch(key, tmp_path / "fetched", sha256="0" * 64),
        lambda: place.artifacts.stream(key),
        lambda: place.artifacts.size(key),
        lambda: place.artifacts.delete(key),
        lambda: list(place.artifacts.listed(key)),
    ):
        with pytest.raises(InvalidRequest, match="no key of an artifact"):
            use()
    assert files_below(tmp_path) == before
    assert place.keys() == []


def test_a_listing_tells_keys_sizes_and_times_by_the_stores_own_clock(place: Any, tmp_path: Path) -> None:
    before = place.artifacts.now()
    for name, content in (("a", b"1"), ("b/c", b"22"), ("d", b"")):
        place.artifacts.put(f"jobs/{name}", written(tmp_path / "source", content)[0])
    place.artifacts.put("jobs_of_another", written(tmp_path / "source", b"beside")[0])
    listed = [each for page in place.artifacts.listed("jobs") for each in page]
    assert {(each.path, each.size_bytes) for each in listed} == {("jobs/a", 1), ("jobs/b/c", 2), ("jobs/d", 0)}
    assert all(before <= each.modified_at <= place.artifacts.now() for each in listed)
    assert list(place.artifacts.listed("nothing")) == []


def test_a_listing_of_many_files_comes_in_pages(place: Any) -> None:
    for number in range(1_001):
        place.write(f"jobs/job_1/a1/{number}", b"")
    pages = list(place.artifacts.listed("jobs"))
    assert max(len(page) for page in pages) <= 500
    assert sum(len(page) for page in pages) == 1_001


@pytest.mark.parametrize("url", ["", "s3://", "gs://bucket", "http://host/path", "postgresql://u:p@h/d"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        Artifacts(url)


def test_the_address_may_be_a_file_url(folder: Path, tmp_path: Path) -> None:
    source, _ = written(tmp_path / "source", b"bytes")
    Artifacts(f"file://{str(folder).replace(' ', '%20')}").put(KEY, source)
    assert files_below(folder) == [KEY]


def test_a_folder_has_no_presigned_addresses(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"x")[0])
    assert artifacts.presigned(KEY, seconds=60) is None


def test_other_users_of_the_machine_may_read_what_the_umask_lets_them(
    artifacts: Artifacts, tmp_path: Path, folder: Path
) -> None:
    source, _ = written(tmp_path / "source", b"x")
    artifacts.put(KEY, source)
    assert (folder / KEY).stat().st_mode == source.stat().st_mode


def test_a_reader_keeps_the_file_it_began_with(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"1" * 3_000_000)[0])
    reading = artifacts.stream(KEY)
    first = next(reading)
    artifacts.put(KEY, written(tmp_path / "source", b"2" * 3_000_000)[0])
    assert set(first + b"".join(reading)) == {ord("1")}


@given(st.text(max_size=40))
def test_no_key_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    home = tmp_path_factory.getbasetemp() / "keys"
    home.mkdir(exist_ok=True)
    try:
        found = Artifacts(str(home / "inside")).size(key)
    except (InvalidRequest, NotFound):
        return
    raise AssertionError(f"{key!r} has {found} bytes, and nothing was ever stored")


def test_a_file_that_grows_while_it_is_stored_is_not_taken_for_whole(artifacts: Artifacts, tmp_path: Path) -> None:
    with fed_by_a_pipe(tmp_path / "source", b"x" * 1000) as source, pytest.raises(CorruptFile, match="Store it again"):
        artifacts.put(KEY, source)


PUTS_FOR_EVER = """
import itertools, sys
from pathlib import Path
from store.artifacts import Artifacts

url, *sources = sys.argv[1:]
artifacts = Artifacts(url)
for number in itertools.count():
    for source in sources:
        artifacts.put("jobs/job_1/a1/step-10.ckpt", Path(source))
        artifacts.put(f"jobs/job_1/a1/new-{number % 5}", Path(source))
    print("once", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_no_half_file(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    """Row 16: kill -9 in the midst of writing a file."""
    contents = [random.Random(seed).randbytes(3_000_000) for seed in range(2)]
    sources = [str(written(tmp_path / f"source-{place}", each)[0]) for place, each in enumerate(contents)]
    moments, cut_short = random.Random(4), 0
    for _ in range(20):
        command = [sys.executable, "-c", PUTS_FOR_EVER, str(folder), *sources]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "once\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(timeout=moments.uniform(0, 0.1))
            writer.kill()
        left = {name: (folder / name).read_bytes() for name in files_below(folder)}
        parts = [name for name in left if "/.part-" in name]
        assert left[KEY] in contents
        assert all(content in contents for name, content in left.items() if name not in parts)
        for name in parts:
            cut_short += 1
            (folder / name).unlink()
    assert cut_short, "not one of the kills hit a writer in the middle of a file"


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


def test_a_file_beyond_the_limit_leaves_what_was_there_and_nothing_else(
    artifacts: Artifacts, tmp_path: Path, folder: Path
) -> None:
    artifacts.put(KEY, written(tmp_path / "source", b"the checkpoint before")[0])
    artifacts.put("big", written(tmp_path / "source", bytes(8_000_000))[0])
    command = [sys.executable, "-c", FILLS_UP, str(folder), str(tmp_path / "source"), str(tmp_path / "fetched")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert [line[:21] for line in done.stdout.splitlines()] == ["No space is left for "] * 2
    assert (folder / KEY).read_bytes() == b"the checkpoint before"
    assert files_below(folder) == ["big", KEY]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some where", "source"]


ON_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from distillery.errors import StorageFull
from store.artifacts import Artifacts

folder, pipe, small = (Path(each) for each in sys.argv[1:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))  # where no disk may be mounted
artifacts = Artifacts(str(folder))
artifacts.put("old", small)
try:
    artifacts.put("old", pipe)
except StorageFull as error:
    print(error.detail)
print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
print(b"".join(artifacts.stream("old")) == small.read_bytes())
artifacts.put("new", small)
print(artifacts.size("new"))
"""
SMALL_DISK = 'mount -t tmpfs -o size=16m none "$0" && exec "$@"'


def test_a_disk_that_fills_up_while_a_file_is_written_keeps_the_old_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small, _ = written(tmp_path / "small", random.Random(0).randbytes(5_000_000))
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, str(disk)]
    mountable = shutil.which("unshare") and subprocess.run([*mounted, "true"], capture_output=True).returncode == 0
    with fed_by_a_pipe(tmp_path / "pipe", bytes(30_000_000)) as pipe:
        command = [sys.executable, "-c", ON_A_SMALL_DISK, str(disk), str(pipe), str(small)]
        command = [*mounted, *command] if mountable else command
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    full, *after = done.stdout.splitlines()
    assert full.startswith("No space is left for old: ")
    assert after == ["['old']", "True", "5000000"]


def test_more_than_the_disk_holds_is_refused_before_it_is_tried(artifacts: Artifacts, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 1 << 43)
    with pytest.raises(StorageFull, match="has no space"):
        artifacts.put(KEY, sparse)


def test_a_folder_whose_disk_is_gone_is_unavailable(artifacts: Artifacts, tmp_path: Path, folder: Path) -> None:
    artifacts.ping()
    folder.rmdir()
    with pytest.raises(Unavailable, match="missing"):
        artifacts.ping()
    with pytest.raises(Unavailable, match="missing"):
        artifacts.put(KEY, written(tmp_path / "source", b"x")[0])
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be made"):
        Artifacts(str(tmp_path / "file" / "artifacts"))
