"""A short storm on Postgres and Redis of its own breaks no promise; and the witness tells when one is broken."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from benchmarks.chaos import watch
from benchmarks.chaos.plan import job
from benchmarks.chaos.verdict import uninterrupted
from distillery import spec as specs
from store import jobs
from store.db import Database
from store.tables import CheckpointRow, JobRow, now_seconds

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ("--jobs=20", "--kills=8", "--stops=2", "--flushes=1", "--crashes=1")
_CELL = re.compile(r"^\| (.+?) \| (.+?) \|$", re.MULTILINE)


@pytest.mark.timeout(600)  # a quarter of a minute on quiet cores
def test_a_short_storm_breaks_no_promise(tmp_path: Path) -> None:
    page, seed = tmp_path / "chaos.md", random.randrange(10_000)
    command = [sys.executable, "-m", "benchmarks.chaos", "--parts=servers", *SMALL, f"--seed={seed}"]
    done = subprocess.run([*command, f"--markdown={page}"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.read_text() in done.stdout
    rows = dict(_CELL.findall(page.read_text()))
    assert int(rows["jobs accepted"]) >= 20
    assert int(rows["succeeded"]) + int(rows["cancelled, as asked"]) >= int(rows["jobs accepted"])
    assert rows["kill -9"].startswith("8 (")
    assert rows["SIGSTOP … SIGCONT"].startswith("2 (")
    assert (rows["FLUSHALL"], rows["crashes of Postgres (`-m immediate`)"]) == ("1", "1")
    assert rows["**stale writes accepted**"].startswith("**0** of ")


def _submitted(database: Database) -> str:
    sent = job(random.Random(1))
    with database.transaction() as session:
        return jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id


def test_the_witness_tells_of_a_write_for_an_attempt_that_is_over(database_url: str) -> None:
    database = Database(database_url)
    watch.begin(database)
    job_id = _submitted(database)
    row = {"job_id": job_id, "seq": 1, "phase": "training", "key": "k", "sha256": "0" * 64, "size_bytes": 1}
    with database.transaction() as session:
        session.execute(update(JobRow).values(attempt=2))
        for attempt in (1, 2):
            values = row | {"id": f"ckp_{attempt}", "attempt": attempt, "step": 1, "created_at": now_seconds()}
            session.execute(insert(CheckpointRow).values(**values))
    with database.read() as session:
        seen = watch.seen(session)
    assert seen.stale == [f"{job_id} was in attempt 2 when attempt 1 wrote to checkpoints."]
    assert (seen.writes, seen.ended_twice) == (2, [])
    database.close()


def test_the_witness_tells_of_a_job_that_ended_twice(database_url: str) -> None:
    database = Database(database_url)
    watch.begin(database)
    job_id, other = _submitted(database), _submitted(database)
    for ended in (job_id, other, job_id):
        with database.transaction() as session:
            values = {"status": "succeeded", "finished_at": now_seconds()}
            session.execute(update(JobRow).where(JobRow.id == ended).values(**values))
    with database.read() as session:
        assert watch.seen(session).ended_twice == [job_id]
    database.close()


def test_what_an_undisturbed_trainer_delivers_depends_on_its_steps_alone(tmp_path: Path) -> None:
    first, again = uninterrupted([5, 6, 5], tmp_path / "a"), uninterrupted([5], tmp_path / "b")
    assert first[5] == again[5] != first[6]
