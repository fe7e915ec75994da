"""How to reach a database: addresses, engine settings for Postgres and SQLite, and one error for every failure."""

import os
import random
import select
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from pydantic_core import from_json, to_json
from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine import URL

from distillery.errors import InvalidRequest, StorageFull, Unavailable

POSTGRES_NAMES = ("postgres", "postgresql", "postgresql+psycopg")
SQLITE_NAMES = ("sqlite", "sqlite+pysqlite")
BUSY_SECONDS = 10.0
POOL_SIZE = 15
"""Connections of one process. All are kept: one that is opened for a burst costs more than the request it serves."""
POOL_SECONDS = 5.0
RESTED_SECONDS = 1.0
"""A connection that lay unused for longer is pinged before it is used."""
STATEMENT_SECONDS = 5.0
_BETWEEN_TRIES_SECONDS = 0.0005, 0.003
_NETWORK_DISKS = ("afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs")
_POSTGRES_DISK_FULL = "53100"
_POSTGRES_NO_TABLE = "42P01"
_POSTGRES_NO_COLUMN = "42703"


def parse_url(url: str) -> URL:
    """Read a database address: `postgresql://…`, `postgres://…`, `sqlite:///path` or a bare path.

    Raises:
        InvalidRequest: another database, an unreadable address, or SQLite in memory (several processes must see it).
    """
    if "://" not in url:
        return URL.create("sqlite+pysqlite", database=str(Path(url).expanduser()))
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidRequest("The database address cannot be read.", hint="Try sqlite:///distillery.db.") from None
    if parsed.drivername in POSTGRES_NAMES:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in SQLITE_NAMES:
        raise InvalidRequest(
            f"Distillery keeps its state in Postgres or SQLite, not in '{parsed.drivername}'.",
            hint="Use postgresql://user:password@host/database or sqlite:///path.",
        )
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise InvalidRequest(
            "SQLite needs a plain file: several processes work on it.", hint="Try sqlite:///distillery.db."
        )
    return parsed.set(drivername="sqlite+pysqlite")


def connect(url: URL, *, statement_seconds: float = STATEMENT_SECONDS, foreign_keys: bool = True) -> Engine:
    """An engine for the address; connects on first use.

    On SQLite every transaction begins as its connection's option `begin` says: `IMMEDIATE` to write, else to read only;
    and `foreign_keys` says whether foreign keys are enforced.

    Raises:
        InvalidRequest: the SQLite file lies on a network file system, where its locks do not hold.
    """
    shared: dict[str, Any] = {"hide_parameters": True, "json_serializer": _to_json, "json_deserializer": from_json}
    if url.get_backend_name() == "postgresql":
        options = _postgres_options(statement_seconds)
        pool = {"pool_size": POOL_SIZE, "max_overflow": 0, "pool_timeout": POOL_SECONDS, "pool_use_lifo": True}
        engine = create_engine(url, connect_args=options, **pool, **shared)
        event.listen(engine, "checkin", _rests)
        event.listen(engine, "checkout", partial(_look_before_use, engine))
        return engine
    refuse_network_disk(Path(url.database or ""))
    engine = create_engine(url, pool_timeout=BUSY_SECONDS, connect_args={"timeout": BUSY_SECONDS}, **shared)
    event.listen(engine, "connect", partial(_prepare_sqlite, foreign_keys=foreign_keys))
    event.listen(engine, "begin", _begin_on_sqlite)
    return engine


def _rests(connection: object, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _look_before_use(engine: Engine, connection: Any, record: Any, _: object) -> None:
    """Find out whether a connection that was used before has died. Asking the server takes as long as a small query,
    so it is asked only after a rest, or when something came over the connection unasked, as its end does.
    """
    since = record.info.pop("rests_since", None)
    if since is None:
        return
    try:
        unasked = select.poll()
        unasked.register(connection.fileno(), select.POLLIN)
        if time.monotonic() - since >= RESTED_SECONDS or unasked.poll(0):
            engine.dialect.do_ping(connection)
    except psycopg.Error as error:
        raise exc.InvalidatePoolError(str(error)) from None


def hang_up(connection: Any) -> None:
    """Shut down the socket of a Postgres connection of which another thread waits for an answer; SQLite has none."""
    if isinstance(connection, sqlite3.Connection):
        return
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as shared:
        shared.shutdown(socket.SHUT_RDWR)


def _to_json(value: Any) -> str:
    # Numbers that are not finite are no JSON, and Postgres refuses them.
    return to_json(value, inf_nan_mode="null").decode()


def _postgres_options(statement_seconds: float) -> dict[str, Any]:
    timeouts = f"-c statement_timeout={int(statement_seconds * 1000)} -c idle_in_transaction_session_timeout=10000"
    return {
        "connect_timeout": 3,
        "options": timeouts,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Keepalives do not run while something sent waits for its acknowledgement; this does. Milliseconds.
        "tcp_user_timeout": 15_000,
        "application_name": "distillery",
    }


def _prepare_sqlite(connection: sqlite3.Connection, record: object, *, foreign_keys: bool) -> None:
    # By default the driver begins a transaction only at the first write, too late to keep two readers that both
    # mean to write from losing an update; with None it leaves BEGIN to `_begin_on_sqlite`.
    connection.isolation_level = None
    _use_wal(connection)
    for pragma in ("synchronous=FULL", f"foreign_keys={'ON' if foreign_keys else 'OFF'}"):
        connection.execute(f"PRAGMA {pragma}")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Of two that switch a new file at the same moment, SQLite turns one away without a wait: that one tries again."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(*_BETWEEN_TRIES_SECONDS))  # noqa: S311 - so that two do not keep step
        else:
            return


def _begin_on_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("begin") == "IMMEDIATE"
    driver: Any = connection.connection.dbapi_connection  # asked directly: SQLAlchemy takes far longer than a pragma
    driver.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    if not writes:
        connection.exec_driver_sql("BEGIN")
        return
    driver.execute("PRAGMA busy_timeout=0")
    try:
        if not _had_turn(driver):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, for its error
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")


def _had_turn(driver: Any) -> bool:
    """Begin to write as soon as no other process does; whether that came to pass. SQLite itself would try ever more
    seldom, at last ten times a second, and be passed by all who came later.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < deadline:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return False
        else:
            return True
        time.sleep(random.uniform(*_BETWEEN_TRIES_SECONDS))  # noqa: S311 - so that two do not keep step
    return False


@contextmanager
def reaching(url: URL) -> Iterator[None]:
    """Turn every failure to reach or use the database into an error of ours; the password is told to nobody.

    Raises:
        Unavailable: out of reach, too slow, locked for too long, or without its tables.
        StorageFull: its disk is full.
        InvalidRequest: a value that the database cannot hold.
    """
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable("Every connection to the database is in use.", hint="Try again in a moment.") from error
    except exc.DBAPIError as error:
        raise _explained(error, url) from error


def _explained(error: exc.DBAPIError, url: URL) -> Exception:
    where = url.render_as_string(hide_password=True)
    reason = str(error.orig).partition("\n")[0]
    if url.password:
        reason = reason.replace(str(url.password), "***")
    state = getattr(error.orig, "sqlstate", None)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if state == _POSTGRES_DISK_FULL or code == sqlite3.SQLITE_FULL:
        return StorageFull(f"The database at {where} has no space left.", hint="Free some space on its disk.")
    if state in (_POSTGRES_NO_TABLE, _POSTGRES_NO_COLUMN) or reason.startswith(("no such table", "no such column")):
        return Unavailable(f"The database at {where} is not up to date: {reason}.", hint="Run python -m store.migrate.")
    if code == sqlite3.SQLITE_ERROR:
        return error  # a statement that makes no sense: our own mistake, and no state of the database
    if isinstance(error, exc.DataError):
        return InvalidRequest(f"The database cannot hold a value that was sent: {reason}.")
    if isinstance(error, (exc.OperationalError, exc.InterfaceError)) or error.connection_invalidated:
        return Unavailable(f"The database at {where} does not answer: {reason}.", hint="Try again in a moment.")
    return error


def refuse_network_disk(path: Path, *, mounts: Path = Path("/proc/mounts")) -> None:
    """Keep SQLite off network file systems, whose locks do not hold between hosts.

    Raises:
        InvalidRequest: `path` lies on one.
    """
    if not mounts.exists():
        return
    rows = [line.split() for line in mounts.read_text().splitlines()]
    absolute = path.absolute()
    above = [row for row in rows if len(row) > 2 and absolute.is_relative_to(row[1])]
    nearest = max(above, key=lambda row: len(row[1]), default=None)
    if nearest is not None and nearest[2] in _NETWORK_DISKS:
        raise InvalidRequest(
            f"{path} lies on a network file system ({nearest[2]}), where SQLite's locks do not hold.",
            hint="Put it on a local disk, or use Postgres.",
        )
