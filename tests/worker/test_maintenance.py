"""What workers do for all: reap, relay and hint again, whatever is away."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from distillery.errors import NotFound
from store import leases
from store.tables import OutboxEntry
from worker.maintenance import Maintenance

Service = Any


@pytest.fixture
def kept(production: Service) -> Iterator[Maintenance]:
    made = Maintenance(production.database, production.artifacts, production.lease, redis_url=production.redis_url)
    yield made
    made.stop()


def _hinted(service: Service) -> int:
    with redis.Redis.from_url(service.redis_url) as connection:
        return int(connection.llen("dk:default"))


def _outbox(service: Service) -> int:
    with service.database.read() as session:
        return int(session.query(OutboxEntry).count())


def test_hints_in_the_outbox_are_sent_once_and_forgotten(production: Service, kept: Maintenance) -> None:
    for _ in range(3):
        production.submit()
    kept.relay()
    assert (_hinted(production), _outbox(production)) == (3, 0)
    kept.relay()
    assert _hinted(production) == 3


def test_hints_wait_for_a_broker_that_is_away(production: Service, unused_port: Callable[[], int]) -> None:
    for _ in range(3):
        production.submit()
    away = f"redis://127.0.0.1:{unused_port()}/0"
    Maintenance(production.database, production.artifacts, production.lease, redis_url=away).relay()
    assert _outbox(production) == 3
    with production.database.transaction() as session:
        session.query(OutboxEntry).update({"next_try_at": 0.0})
    Maintenance(production.database, production.artifacts, production.lease, redis_url=production.redis_url).relay()
    assert (_hinted(production), _outbox(production)) == (3, 0)


def test_waiting_jobs_are_hinted_again_when_the_broker_lost_them(production: Service, kept: Maintenance) -> None:
    job_id = production.submit()
    kept.relay()
    with redis.Redis.from_url(production.redis_url) as connection:
        connection.flushdb()
    kept.start()
    production.until(lambda: _hinted(production))
    assert production.job(job_id).status == "queued"


def test_jobs_that_wait_for_long_do_not_fill_the_broker(production: Service, kept: Maintenance) -> None:
    production.submit()
    with redis.Redis.from_url(production.redis_url) as connection:
        connection.rpush("dk:default", *["an earlier hint"] * 1000)
    kept.relay()
    assert (_hinted(production), _outbox(production)) == (1000, 0)


def test_without_a_broker_hints_are_simply_done(embedded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLERY_REDIS_URL", raising=False)
    embedded.submit()
    Maintenance(embedded.database, embedded.artifacts, embedded.lease).relay()
    assert _outbox(embedded) == 0


def test_files_of_pruned_checkpoints_are_deleted(embedded: Service) -> None:
    job_id = embedded.submit(steps="60", every="10")
    assert embedded.run_one()
    folder = embedded.folder / "artifacts" / "jobs" / job_id / "a1"
    assert len(list(folder.glob("*.ckpt"))) == 6
    Maintenance(embedded.database, embedded.artifacts, embedded.lease).delete()
    assert sorted(each.name.split("-")[1] for each in folder.glob("*.ckpt")) == ["40", "50", "60"]


def test_jobs_of_dead_workers_are_given_back(service: Service) -> None:
    job_id = service.submit()
    kept = Maintenance(service.database, service.artifacts, service.lease)
    with service.database.transaction() as session:
        assert leases.claim(session, worker="it dies", queues=("default",), lease_seconds=0.05)
    kept.start()
    service.until(lambda: service.job(job_id).status == "queued")
    kept.stop()


def test_it_survives_a_database_that_is_away(embedded: Service, caplog: pytest.LogCaptureFixture) -> None:
    database = embedded.folder / "distillery.db"
    aside = database.with_suffix(".aside")
    database.rename(aside)
    database.symlink_to(embedded.folder / "away" / "distillery.db")
    kept = Maintenance(embedded.database, embedded.artifacts, embedded.lease)
    kept.start()
    embedded.until(lambda: "tried again" in caplog.text)
    aside.replace(database)  # at once: SQLite would make an empty file of a name that is free for a moment
    job_id = embedded.submit()
    with embedded.database.transaction() as session:
        assert leases.claim(session, worker="it dies", queues=("default",), lease_seconds=0.05)
    embedded.until(lambda: embedded.job(job_id).status == "queued")
    kept.stop()


def test_what_nothing_names_is_swept_when_it_is_old_and_old_requests_are_forgotten(
    production: Service, kept: Maintenance, tmp_path: Path
) -> None:
    job_id = production.submit(steps="6", every="5")
    assert production.run_one()
    stray = tmp_path / "stray"
    stray.write_bytes(b"committed by nobody")
    production.artifacts.put(f"jobs/{job_id}/a1/stray.bin", stray)
    kept.sweep()
    assert production.artifacts.size(f"jobs/{job_id}/a1/stray.bin") > 0, "it may be about to be committed"
    for path in (production.folder / "artifacts").rglob("*"):
        os.utime(path, (1, 1))
    kept.sweep()
    with pytest.raises(NotFound):
        production.artifacts.size(f"jobs/{job_id}/a1/stray.bin")
    assert production.content(job_id, "student.safetensors"), "what a row names stays, however old"
