"""Disks that are full and checkpoints that are damaged."""

import random
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from store.whole_files import PART_PREFIX
from tests.faults.servers import small_disk

Service = Any
MEBIBYTE = 1 << 20


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[bool]:
    """Whether the service's artifacts lie on a disk of 16 MiB, which only root may mount."""
    with small_disk(tmp_path / "artifacts", size_mib=16) as mounted:
        yield mounted


def _limit_files(pid: int, size_bytes: int) -> None:
    """Where no disk may be mounted: to this process, a larger file meets a full one."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def test_a_checkpoint_that_meets_a_full_disk_leaves_the_one_before_it_whole(
    mounted: bool, service: Service, expected: Callable[[int], bytes]
) -> None:
    """Row 9: 16 MiB hold one checkpoint of 9 MiB; the second is told as a warning, and a killed job loads the first."""
    labels = {"steps_later": "20", "every": "5", "pace": "0.05", "ending": "hold", "at": "7"}
    job_id = service.submit(steps="100000", ballast=str(9 * MEBIBYTE), **labels)
    killed = service.start_embedded()
    service.until_saved(job_id, step=5)
    if not mounted:
        _limit_files(killed.pid, 8 * MEBIBYTE)
    service.go()
    warning = service.until(lambda: service.events(job_id, "warning"))[0]
    assert "step 10 could not be stored" in warning.message
    assert service.checkpoint_steps(job_id) == [(1, 5)]
    service.holds()
    service.lose(killed, job_id)
    service.start_embedded()
    job = service.until_ended(job_id)
    assert (job.status, job.attempts[1].first_step) == ("succeeded", 5)
    assert [each for each in (service.folder / "artifacts").rglob("*") if each.name.startswith(PART_PREFIX)] == []
    assert service.content(job_id, "student.safetensors") == expected(20)


def test_a_job_whose_delivery_meets_a_full_disk_waits_and_is_tried_again(
    mounted: bool, service: Service, expected: Callable[[int], bytes]
) -> None:
    """Row 9: it counts as no crash, says why it waits, and succeeds once there is room."""
    job_id = service.submit(steps="20", every="5", pace="0.02", ending="hold", at="17")
    worker = service.start_embedded(environment={"DISTILLERY_SPACE_WAIT_SECONDS": "0.5"})
    service.until_saved(job_id, step=15)
    hog = service.folder / "artifacts" / "hog"
    if mounted:
        _fill(hog)
    else:
        _limit_files(worker.pid, 0)
    service.go()
    service.until(lambda: [each for each in service.events(job_id, "requeued") if each.data["reason"] == "disk_full"])
    if mounted:
        hog.unlink()
    else:
        _limit_files(worker.pid, resource.RLIM_INFINITY)
    job = service.until_ended(job_id)
    assert (job.status, job.attempts[0].outcome) == ("succeeded", "halted")
    assert service.counted(job_id)["crashes"] == 0
    assert service.content(job_id, "student.safetensors") == expected(20)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_never_loaded_and_the_one_before_it_is(
    service: Service, expected: Callable[[int], bytes], how: str
) -> None:
    """Row 10: one byte of the newest checkpoint is changed, or it is cut short, or its file is gone, and an event says
    so. (That no cut and no changed byte is ever taken for whole is tested with the artifact store.)
    """
    job_id = service.submit(steps="40", every="5", ending="hold", at="12,0")
    killed = service.start_embedded()
    service.until(lambda: (1, 10) in service.saved(job_id))
    service.lose(killed, job_id)
    (newest,) = (service.folder / "artifacts").rglob("step-10-*.ckpt")
    _damage(newest, how)
    service.start_embedded()
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    (warning,) = service.events(job_id, "warning")
    assert "The checkpoint of step 10 cannot be used" in warning.message
    assert next(step for attempt, step in service.steps_taken() if attempt == 2) == 6
    assert service.content(job_id, "student.safetensors") == expected(40)
    service.until(lambda: not newest.exists())


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    place = random.randrange(len(content))
    if how == "flipped":
        content[place] ^= 1 << random.randrange(8)
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[:place])
    else:
        path.unlink()


def test_a_job_without_any_whole_checkpoint_begins_again_and_says_so(
    service: Service, expected: Callable[[int], bytes]
) -> None:
    """Row 10: all of them are damaged."""
    job_id = service.submit(steps="40", every="5", ending="hold", at="12,0")
    killed = service.start_embedded()
    service.until(lambda: (1, 10) in service.saved(job_id))
    service.lose(killed, job_id)
    for each in (service.folder / "artifacts").rglob("*.ckpt"):
        _damage(each, "flipped")
    service.start_embedded()
    job = service.until_ended(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert len(service.events(job_id, "warning")) == 2
    assert next(step for attempt, step in service.steps_taken() if attempt == 2) == 1
    assert service.content(job_id, "student.safetensors") == expected(40)
