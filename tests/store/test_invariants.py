"""The checker of invariants finds nothing in a sound store, and every kind of damage in a damaged one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from store.artifacts import Artifacts
from store.invariants import violations


def sound(shop: Any) -> dict[str, str]:
    """A store with a job in every state that a job can rest in; the ids by state."""
    done = shop.claimed()
    shop.save(done, 5)
    shop.save(done, 9)
    shop.sql("UPDATE jobs SET status = 'cancelling' WHERE id = :id", id=done.id)
    from store import leases

    shop.do(leases.cancelled, done)
    lost = shop.claimed()
    shop.expire(lost.id)
    shop.do(leases.reap, lease=shop.lease)
    failed = shop.claimed()
    shop.fail(failed)
    running = shop.claimed()
    shop.save(running, 3)
    paused = shop.claimed()
    shop.sql("UPDATE jobs SET status = 'pausing' WHERE id = :id", id=paused.id)
    shop.do(leases.paused, paused)
    waiting = shop.submit()
    return {
        "cancelled": done.id, "lost": lost.id, "failed": failed.id, "running": running.id, "paused": paused.id,
        "queued": waiting.id,
    }  # fmt: skip


def test_a_sound_store_breaks_nothing(shop: Any) -> None:
    sound(shop)
    assert shop.see(violations) == []


@pytest.mark.parametrize(
    ("state", "damage", "said"),
    [
        ("failed", "UPDATE events SET type = 'warning' WHERE job_id = :id AND type = 'failed'", "has 0 final events"),
        ("queued", "UPDATE events SET type = 'crashed' WHERE job_id = :id", "has 1 final events"),
        ("lost", "DELETE FROM events WHERE job_id = :id AND seq = 2", "and says that there were 3"),
        ("running", "DELETE FROM attempts WHERE job_id = :id", "has 0 attempts"),
        ("failed", "UPDATE attempts SET ended_at = NULL WHERE job_id = :id", "of which 1 have not ended"),
        ("paused", "UPDATE jobs SET owner = 'somebody' WHERE id = :id", "and its owner is somebody"),
        ("failed", "UPDATE jobs SET finished_at = NULL WHERE id = :id", "its time of ending says otherwise"),
        (
            "cancelled",
            "UPDATE checkpoints SET step = 7, attempt = 0 WHERE job_id = :id AND step = 9",
            "committed after",
        ),
        ("cancelled", "UPDATE checkpoints SET step = 1 WHERE job_id = :id AND step = 9", "step 1 committed after"),
        ("queued", "UPDATE jobs SET status = 'paused' WHERE id = :id", "a hint for it waits in the outbox"),
    ],
)
def test_every_kind_of_damage_is_found(shop: Any, state: str, damage: str, said: str) -> None:
    job_id = sound(shop)[state]
    shop.sql(damage, id=job_id)
    found = shop.see(violations)
    assert any(line.startswith(job_id) and said in line for line in found), found


def test_a_missing_or_changed_file_is_found(shop: Any, tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path / "artifacts"))
    job_id = sound(shop)["running"]
    found = shop.see(violations, artifacts)
    assert any(job_id in line for line in found), found


def test_the_command_says_so_and_how(sqlite_url: str, tmp_path: Path) -> None:
    environment = {"DISTILLERY_DATABASE_URL": sqlite_url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    command = [sys.executable, "-m", "store.invariants"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Everything holds.\n", "")
