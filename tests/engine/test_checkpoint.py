"""Checkpoint files are whole or absent, and a damaged one is never taken for a good one."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillery.errors import CorruptFile, NotFound, StorageFull
from engine import checkpoint

STATE = {
    "step": 7,
    "rate": 0.1,
    "name": "x",
    "curve": [(1, 0.5), (2, 0.25)],
    "none": None,
    "weights": {"a": torch.arange(10_000, dtype=torch.float32), "b": torch.ones(3, dtype=torch.bfloat16)},
}


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "a1" / "step-7.ckpt"
    sha256, size = checkpoint.save(STATE, path)
    assert same(checkpoint.load(path, sha256=sha256), STATE)
    assert same(checkpoint.load(path, sha256=None), STATE)
    assert (sha256, size) == (checkpoint.sha256_of(path), path.stat().st_size)
    assert names(path.parent) == ["step-7.ckpt"]


def test_a_channels_last_tensor_keeps_its_layout(tmp_path):
    weights = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    checkpoint.save({"weights": weights}, tmp_path / "c.ckpt")
    loaded = checkpoint.load(tmp_path / "c.ckpt", sha256=None)["weights"]
    assert loaded.stride() == weights.stride()
    assert torch.equal(loaded, weights)


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".step-3.ckpt.{ended.pid}.partial").write_bytes(b"half")
    (tmp_path / ".step-4.ckpt.partial").write_bytes(b"half")
    checkpoint.save(STATE, tmp_path / "step-7.ckpt")
    assert names(tmp_path) == ["step-7.ckpt"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    with checkpoint.written_whole(tmp_path / "slow") as slow:
        slow.write(b"wh")
        checkpoint.save(STATE, tmp_path / "step-7.ckpt")
        slow.write(b"ole")
    assert names(tmp_path) == ["slow", "step-7.ckpt"]
    assert (tmp_path / "slow").read_bytes() == b"whole"


def test_the_temporary_file_lies_in_the_same_folder(tmp_path):
    """A rename across file systems is a copy, and not atomic."""
    with checkpoint.written_whole(tmp_path / "file") as writer:
        writer.write(b"whole")
        assert [name.startswith(".file.") for name in names(tmp_path)] == [True]
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_an_interrupted_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.ckpt"
    sha256, _ = checkpoint.save(STATE, path)

    class Unwritable:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({**STATE, "step": Unwritable()}, path)
    assert same(checkpoint.load(path, sha256=sha256), STATE)
    assert names(tmp_path) == ["c.ckpt"]


OVER_THE_LIMIT = """
import resource, sys, torch
from pathlib import Path
from distillery.errors import StorageFull
from engine import checkpoint
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save({"weights": torch.ones(1_000_000)}, Path(sys.argv[1]))
    except StorageFull as error:
        print(error)
    print([path.name for path in Path(sys.argv[1]).parent.iterdir()])
"""


def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.ckpt"
    sha256, _ = checkpoint.save(STATE, path)
    limits = ["0", "100", "70000", "1000000", "4000100"]
    command = [sys.executable, "-c", OVER_THE_LIMIT, str(path), *limits]
    repository = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=True)
    lines = ended.stdout.splitlines()
    assert [line.startswith("No space is left to write c.ckpt") for line in lines[::2]] == [True] * len(limits)
    assert lines[1::2] == ["['c.ckpt']"] * len(limits)
    assert same(checkpoint.load(path, sha256=sha256), STATE)


def test_a_save_that_cannot_fit_is_refused_before_it_fills_the_disk(tmp_path):
    endless = torch.zeros(1, dtype=torch.uint8).expand(2**62)
    with pytest.raises(StorageFull, match="should be free"):
        checkpoint.save({"weights": [endless]}, tmp_path / "c.ckpt")
    assert names(tmp_path) == []


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "c.ckpt"
    sha256, _ = checkpoint.save(STATE, path)
    return path, sha256, path.read_bytes()


def test_a_flipped_bit_is_never_loaded(saved):
    path, sha256, good = saved
    for offset in random.Random(0).sample(range(len(good)), 100):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0x10]) + good[offset + 1 :])
        with pytest.raises(CorruptFile, match=r"c\.ckpt"):
            checkpoint.load(path, sha256=sha256)


def test_without_a_recorded_hash_a_flipped_bit_is_found_or_harmless(saved):
    path, _, good = saved
    found = 0
    for offset in random.Random(1).sample(range(len(good)), 200):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0x10]) + good[offset + 1 :])
        try:
            loaded = checkpoint.load(path, sha256=None)
        except CorruptFile:
            found += 1
        else:
            assert same(loaded, STATE), offset
    assert found > 150


def test_a_file_cut_short_is_never_loaded(saved):
    path, sha256, good = saved
    for size in [0, 1, *random.Random(2).sample(range(len(good)), 100), len(good) - 1]:
        path.write_bytes(good[:size])
        for known in (sha256, None):
            with pytest.raises(CorruptFile):
                checkpoint.load(path, sha256=known)


def test_a_file_that_runs_code_when_unpickled_is_refused(tmp_path):
    path = tmp_path / "evil.ckpt"
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"weights": Evil()}, path)
    with pytest.raises(CorruptFile):
        checkpoint.load(path, sha256=checkpoint.sha256_of(path))
    assert not mark.exists()


def test_something_else_than_a_state_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CorruptFile, match="list"):
        checkpoint.load(tmp_path / "list.ckpt", sha256=None)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match="gone"):
        checkpoint.load(tmp_path / "gone.ckpt", sha256=None)
