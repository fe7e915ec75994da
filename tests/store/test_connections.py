"""Reaching the database: addresses, settings, and one error for every way it can fail."""

import contextlib
import sqlite3
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from distillery.errors import InvalidRequest, StorageFull, Unavailable
from store.connections import _use_wal, parse_url, refuse_network_disk
from store.db import Database


@pytest.mark.parametrize(
    ("given", "driver", "name"),
    [
        ("postgres://u:p@host/db", "postgresql+psycopg", "db"),
        ("postgresql://host/db", "postgresql+psycopg", "db"),
        ("postgresql+psycopg://host/db", "postgresql+psycopg", "db"),
        ("sqlite:///some/file.db", "sqlite+pysqlite", "some/file.db"),
        ("sqlite:////some/file.db", "sqlite+pysqlite", "/some/file.db"),
        ("/some/file.db", "sqlite+pysqlite", "/some/file.db"),
        ("file.db", "sqlite+pysqlite", "file.db"),
    ],
)
def test_addresses(given: str, driver: str, name: str) -> None:
    parsed = parse_url(given)
    assert (parsed.drivername, parsed.database) == (driver, name)


@pytest.mark.parametrize("given", ["mysql://u:secret@host/db", "sqlite://", "sqlite:///:memory:", "postgresql://h:x/d"])
def test_addresses_that_cannot_be_used_are_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_url(given)
    assert "secret" not in str(refused.value)


def test_processes_that_open_a_new_sqlite_file_at_once_turn_none_away(tmp_path: Path) -> None:
    """Without a second try about one file in fifty told one of them 'database is locked'."""
    together = threading.Barrier(4)

    def open_it(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        together.wait()
        try:
            _use_wal(connection)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        for number in range(300):
            list(pool.map(open_it, [tmp_path / f"{number}.db"] * 4))


def test_sqlite_is_safe_by_its_settings(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.transaction() as session:
        settings = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    database.close()


def test_postgres_is_bounded_by_its_settings(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.transaction() as session:
        settings = {
            name: session.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives_idle")
        }
        assert settings["statement_timeout"] == "5s"
        assert settings["idle_in_transaction_session_timeout"] == "10s"
    database.close()


def test_a_slow_statement_is_cut_off(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(Unavailable, match="statement timeout"), database.transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 50"))
        session.execute(text("SELECT pg_sleep(30)"))
    database.close()


def test_a_reader_cannot_write(shop: Any) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"), shop.database.read() as session:
        session.execute(text("DELETE FROM jobs"))
    shop.submit()  # and the connection that was just a reader's can write


def test_threads_wait_for_each_other_and_not_for_ever(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.db.BUSY_SECONDS", 0.05)
    database = Database(sqlite_url)
    with database.transaction(), ThreadPoolExecutor(1) as other:
        waiting = other.submit(database.transaction().__enter__)
        with pytest.raises(Unavailable, match="Other threads kept the database"):
            waiting.result(30)
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
    database.close()


def test_processes_wait_for_each_other_and_not_for_ever(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two databases on one file are to each other what two processes are."""

    def write() -> str:
        database = Database(sqlite_url)
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
        database.close()
        return "written"

    with ThreadPoolExecutor(1) as other:
        first = Database(sqlite_url)
        with first.transaction() as session:
            session.execute(text("SELECT 1"))
            with pytest.raises(Unavailable, match="database is locked"), monkeypatch.context() as hasty:
                hasty.setattr("store.connections.BUSY_SECONDS", 0.05)
                write()
            waiting = other.submit(write)
        assert waiting.result(30) == "written"
        first.close()


def test_a_reader_sees_one_moment(shop: Any) -> None:
    shop.submit()
    with shop.database.read() as session:
        before = session.execute(text("SELECT count(*) FROM jobs")).scalar_one()
        shop.submit()
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == before == 1


def test_an_error_takes_the_transaction_back(shop: Any) -> None:
    job = shop.submit()
    with pytest.raises(IntegrityError), shop.database.transaction() as session:
        session.execute(text("UPDATE jobs SET name = 'changed'"))
        session.execute(text("UPDATE jobs SET status = 'nonsense'"))
    assert shop.job(job.id).name == job.name


def no_server(unused_port: Callable[[], int]) -> str:
    return f"postgresql://somebody:secret@127.0.0.1:{unused_port()}/distillery"


def test_no_server_is_unavailable_and_keeps_its_password(unused_port: Callable[[], int]) -> None:
    database = Database(no_server(unused_port))
    for begin in (database.read, database.transaction):
        with pytest.raises(Unavailable, match="does not answer") as refused, begin() as session:
            session.execute(text("SELECT 1"))
        assert "secret" not in "".join(traceback.format_exception(refused.value))
    database.close()


def test_a_wrong_password_is_told_to_nobody(postgres_url: str) -> None:
    host = postgres_url.rpartition("@")[2]
    database = Database(f"postgresql://nobody:secret@{host}")
    with pytest.raises(Unavailable) as refused:
        database.ping()
    assert "secret" not in "".join(traceback.format_exception(refused.value))
    database.close()


def test_a_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'missing' / 'file.db'}")
    with pytest.raises(Unavailable, match="unable to open"):
        database.ping()
    database.close()


def test_a_database_without_tables_says_how_to_make_them(tmp_path: Path, empty_postgres_url: str) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", empty_postgres_url):
        database = Database(url)
        with pytest.raises(Unavailable, match=r"store\.migrate"), database.read() as session:
            session.execute(text("SELECT * FROM jobs"))
        database.close()


def test_a_full_disk_is_a_full_disk(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(StorageFull, match="no space left"), database.transaction() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
        session.execute(text("CREATE TABLE big AS SELECT zeroblob(10000000) AS b"))
    database.close()


def test_a_mistake_of_ours_does_not_look_like_an_outage(shop: Any) -> None:
    with pytest.raises(DBAPIError, match="nonsense"), shop.database.read() as session:
        session.execute(text("nonsense"))


def test_a_value_that_cannot_be_held_is_a_bad_request(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(InvalidRequest, match="NUL"), database.transaction() as session:
        session.execute(text("SELECT * FROM jobs WHERE name = :name"), {"name": "a\x00"})
    database.close()


def test_a_server_that_was_restarted_is_used_again(postgres_url: str, postgres_server: str) -> None:
    import psycopg

    database = Database(postgres_url)
    with contextlib.ExitStack() as sessions:
        for _ in range(3):
            sessions.enter_context(database.read()).execute(text("SELECT 1"))
    with psycopg.connect(postgres_server, autocommit=True) as other:
        of_ours = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        name = (postgres_url.rpartition("/")[2],)
        other.execute(f"SELECT pg_terminate_backend(pid) {of_ours}", name)
        while other.execute(f"SELECT count(*) {of_ours}", name).fetchone() != (0,):
            pass
    for _ in range(3):
        database.ping()
    database.close()


def test_a_connection_that_was_closed_on_this_side_is_replaced(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.read() as session:
        driver = session.connection().connection.driver_connection
    driver.close()
    database.ping()
    database.close()


def test_a_connection_is_asked_whether_it_lives_only_after_a_rest(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings: list[object] = []
    database = Database(postgres_url)
    dialect = database._engine.dialect
    monkeypatch.setattr(dialect, "do_ping", lambda connection, ping=dialect.do_ping: pings.append(ping(connection)))
    for _ in range(3):
        database.ping()
    assert pings == []
    monkeypatch.setattr("store.connections.RESTED_SECONDS", 0.0)
    database.ping()
    assert len(pings) == 1
    database.close()


def test_sqlite_stays_off_network_disks(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/root / ext4 rw 0 0\nserver:/x /mnt/share nfs4 rw 0 0\n/dev/sdb /mnt/share/local ext4 rw 0 0\nodd\n"
    )
    with pytest.raises(InvalidRequest, match=r"network file system \(nfs4\)"):
        refuse_network_disk(Path("/mnt/share/folder/file.db"), mounts=mounts)
    refuse_network_disk(Path("/mnt/share/local/file.db"), mounts=mounts)
    refuse_network_disk(Path("/home/file.db"), mounts=mounts)
    refuse_network_disk(Path("/mnt/share/file.db"), mounts=tmp_path / "none")
