"""Files that no row names are swept away after a day; rows whose file is gone or wrong are told."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import libfaketime
import pytest

from distillery.errors import Unavailable
from store import leases, orphans, outbox
from store.artifacts import Artifacts
from store.db import Database
from worker.messages import ModelFacts

DAY = 86_400.0
CONTENT = b"ten bytes!"
AT_ONCE = -1.0
"""The clock of SQLite has milliseconds, so that a file made just now may be ahead of it by less than one."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def artifacts(folder: Path) -> Artifacts:
    return Artifacts(str(folder))


def aged(folder: Path, key: str, *, seconds: float, content: bytes = CONTENT) -> str:
    """A file that was written so long ago."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return key


def saved(shop: Any, write: Any, claim: Any, *, step: int) -> Any:
    write(f"jobs/{claim.id}/a{claim.attempt}/step-{step}.ckpt", CONTENT)
    return shop.save(claim, step, sha256=SHA256)


def delivered(shop: Any, write: Any, claim: Any, name: str = "student.safetensors") -> str:
    key = f"jobs/{claim.id}/a{claim.attempt}/{name}"
    write(key, CONTENT)
    shop.deliver(claim, name, sha256=SHA256)
    return key


def succeed(shop: Any, claim: Any) -> None:
    facts = ModelFacts(
        role="student", artifact="student.safetensors", architecture="seed_student", classes=("0", "1"), image_size=8,
        channels=1, mean=(0.5,), std=(0.5,), accuracy=0.9, sha256=SHA256,
    )  # fmt: skip
    shop.do(leases.succeed, claim, summary="It helped.", models=[facts])


def test_what_anything_names_stays_and_the_rest_goes(shop: Any, place: Any) -> None:
    claim = shop.claimed(training={"keep": 1})
    let_go = saved(shop, place.write, claim, step=10).key
    kept = saved(shop, place.write, claim, step=20).key
    student = delivered(shop, place.write, claim)
    never_committed = f"jobs/{claim.id}/a1/step-30.ckpt"
    place.write(never_committed, CONTENT)
    succeed(shop, claim)
    others = ["jobs/job_gone/a1/step-10.ckpt", "jobs/job_gone/log.txt"]
    for key in (*others, "models/uploaded.safetensors", "jobsite"):
        place.write(key, CONTENT)
    gone = orphans.sweep(shop.database, place.artifacts, older_than_seconds=AT_ONCE)
    assert sorted(gone) == sorted([never_committed, *others])
    assert set(place.keys()) - {"clock"} == {let_go, kept, student, "models/uploaded.safetensors", "jobsite"}
    assert shop.see(orphans.missing, place.artifacts, verify=True) == []
    assert orphans.sweep(shop.database, place.artifacts, older_than_seconds=AT_ONCE) == []


def test_what_a_running_attempt_may_yet_commit_stays_however_old_it_is(shop: Any, artifacts: Any, folder: Path) -> None:
    claim = shop.claimed()
    waiting = aged(folder, f"jobs/{claim.id}/a1/step-10.ckpt", seconds=9 * DAY)
    half = aged(folder, f"jobs/{claim.id}/a1/.part-0123456789abcdef", seconds=9 * DAY)
    assert orphans.sweep(shop.database, artifacts) == []
    shop.do(leases.release, claim)
    shop.claim(claim.id)  # the second attempt: the first can commit nothing more
    assert sorted(orphans.sweep(shop.database, artifacts)) == sorted([waiting, half])


def test_only_what_is_older_than_a_day_goes(shop: Any, artifacts: Any, folder: Path) -> None:
    aged(folder, "jobs/job_gone/a1/young", seconds=DAY - 600)
    old = aged(folder, "jobs/job_gone/a1/old", seconds=DAY + 600)
    assert orphans.sweep(shop.database, artifacts) == [old]
    assert (folder / "jobs/job_gone/a1/young").exists()


def test_fresh_files_in_s3_stay(shop: Any, bucket: Any) -> None:
    bucket.write("jobs/job_gone/a1/young", CONTENT)
    assert orphans.sweep(shop.database, Artifacts(f"s3://{bucket.name}")) == []
    assert "jobs/job_gone/a1/young" in bucket.objects()


def test_a_model_keeps_its_weights_without_an_artifact(shop: Any, artifacts: Any, folder: Path) -> None:
    claim = shop.claimed()
    delivered(shop, lambda key, content: aged(folder, key, seconds=2 * DAY, content=content), claim)
    succeed(shop, claim)
    shop.sql("DELETE FROM artifacts")
    assert orphans.sweep(shop.database, artifacts) == []
    shop.sql("DELETE FROM models")
    assert len(orphans.sweep(shop.database, artifacts)) == 1


def test_one_sweep_deletes_no_more_than_it_may(shop: Any, artifacts: Any, folder: Path) -> None:
    for number in range(700):
        aged(folder, f"jobs/job_gone/a1/{number}", seconds=2 * DAY)
    assert len(orphans.sweep(shop.database, artifacts, limit=600)) == 600
    assert len(orphans.sweep(shop.database, artifacts, limit=600)) == 100


PUTS_FROM_A_PIPE = """
import sys
from pathlib import Path
from store.artifacts import Artifacts

Artifacts(sys.argv[1]).put("jobs/job_gone/a1/step-10.ckpt", Path("/dev/stdin"))
"""


def test_what_a_killed_writer_left_goes_after_a_day(shop: Any, artifacts: Any, folder: Path) -> None:
    command = [sys.executable, "-c", PUTS_FROM_A_PIPE, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(bytes(8 << 20))
        writer.stdin.flush()  # most of it has been read, and the end is not in sight
        writer.kill()
    (part,) = (folder / "jobs/job_gone/a1").iterdir()
    assert part.name.startswith(".part-")
    assert orphans.sweep(shop.database, artifacts) == []
    os.utime(part, (1, 1))
    assert orphans.sweep(shop.database, artifacts) == [str(part.relative_to(folder))]
    assert not part.exists()


SWEEPS = """
import sys
from store import orphans
from store.artifacts import Artifacts
from store.db import Database

print(orphans.sweep(Database(sys.argv[1]), Artifacts(sys.argv[2])))
"""


@pytest.mark.parametrize("offset", ["+48h", "-48h"])
def test_a_wrong_clock_deletes_nothing_too_early(sqlite_url: str, artifacts: Any, folder: Path, offset: str) -> None:
    """On SQLite: there the clock of the process is the database's."""
    aged(folder, "jobs/job_gone/a1/young", seconds=600)
    # The times of files come from the kernel, which nobody deceives.
    faked = libfaketime_environment(offset) | {"NO_FAKE_STAT": "1"}
    command = [sys.executable, "-c", SWEEPS, sqlite_url, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | faked, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert (folder / "jobs/job_gone/a1/young").exists()


def libfaketime_environment(offset: str) -> dict[str, str]:
    library = next(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": offset}


def test_several_sweeps_at_once_do_each_other_no_harm(
    database_url: str, shop: Any, artifacts: Any, folder: Path
) -> None:
    expected = {aged(folder, f"jobs/job_gone/a1/{number}", seconds=2 * DAY) for number in range(600)}
    failures: list[Exception] = []
    gone: list[str] = []

    def sweep() -> None:
        database = Database(database_url)
        try:
            gone.extend(orphans.sweep(database, artifacts))
        except Exception as error:
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(gone) == expected
    assert list(folder.rglob("jobs/*/*/*")) == []


def test_no_row_ever_loses_its_file_to_a_sweep_beside_it(
    database_url: str, shop: Any, artifacts: Any, tmp_path: Path
) -> None:
    """Files of any age are swept, over and over, while a worker saves and the outbox deletes."""
    done = threading.Event()
    failures: list[Exception] = []

    def sweep() -> None:
        database = Database(database_url)
        try:
            while not done.is_set():
                orphans.sweep(database, artifacts, older_than_seconds=-60)
        except Exception as error:
            failures.append(error)
        finally:
            database.close()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    claim = shop.claimed(training={"keep": 2})
    (tmp_path / "source").write_bytes(CONTENT)
    for step in range(1, 61):
        if step % 20 == 0:
            shop.patiently(leases.release, claim)
            claim = shop.claim(claim.id)
        artifacts.put(f"jobs/{claim.id}/a{claim.attempt}/step-{step}.ckpt", tmp_path / "source")
        shop.save(claim, step, sha256=SHA256)
        for row in shop.patiently(outbox.due, kinds=["delete"]):
            artifacts.delete(row.payload["key"])
            shop.patiently(outbox.done, row.id)
    done.set()
    sweeper.join()
    assert failures == []
    assert len(shop.sql("SELECT id FROM checkpoints")) == 2
    assert shop.see(orphans.missing, artifacts, verify=True) == []


def test_a_store_that_is_away_leaves_everything(shop: Any, artifacts: Any, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.parent.chmod(0o700)
    (folder.parent / "artifacts").write_text("in the way")
    with pytest.raises(Unavailable):
        orphans.sweep(shop.database, artifacts)


def test_a_row_whose_file_is_gone_cut_or_damaged_is_told(shop: Any, place: Any) -> None:
    claim = shop.claimed(training={"keep": 9})
    gone, cut, damaged, _good = (saved(shop, place.write, claim, step=step) for step in (10, 20, 30, 40))
    student = delivered(shop, place.write, claim)
    succeed(shop, claim)
    assert shop.see(orphans.missing, place.artifacts, verify=True) == []
    place.artifacts.delete(gone.key)
    place.write(cut.key, CONTENT[:5])
    place.write(damaged.key, CONTENT[::-1])
    place.artifacts.delete(student)
    told = {each.key: str(each) for each in shop.see(orphans.missing, place.artifacts)}
    assert set(told) == {gone.key, cut.key, student}
    assert told[gone.key] == f"The file {gone.key} of checkpoint {gone.id} is missing."
    assert "has 5 bytes; 10 were recorded" in told[cut.key]
    verified = shop.see(orphans.missing, place.artifacts, verify=True)
    assert {each.key for each in verified} == {gone.key, cut.key, student, damaged.key}
    assert [each.row.partition(" ")[0] for each in verified if each.key == student] == ["artifact", "model"]


def test_the_outbox_may_ask_whether_a_key_is_named_again(shop: Any, place: Any) -> None:
    claim = shop.claimed()
    key = saved(shop, place.write, claim, step=10).key
    assert shop.see(orphans.named, [key, "jobs/job_gone/a1/x"]) == {key}
