"""Transactions, the same on Postgres and SQLite."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from sqlalchemy import Engine, Table, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from distillery.errors import Unavailable
from store.connections import BUSY_SECONDS, connect, hang_up, parse_url, reaching
from store.migrate import migrate, pending_migrations
from store.tables import Stored, now_seconds

__all__ = ["Database", "migrate", "pending_migrations", "upsert"]


class Database:
    """A database and its connections. Make one in each process, after any fork; threads may share it.

    Args:
        url: `postgresql://…`, `sqlite:///path` or a bare path to a SQLite file.

    Raises:
        InvalidRequest: the address cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_url(url)
        self._engine = connect(self._url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        # SQLite lets one write at a time and has the others try again and again; threads wait for each other better.
        self._turn: AbstractContextManager[None] = _Turn() if self.is_sqlite else nullcontext()
        self._in_use: set[Any] = set()
        event.listen(self._engine, "checkout", lambda connection, *_: self._in_use.add(connection))
        event.listen(self._engine, "checkin", lambda connection, *_: self._in_use.discard(connection))
        self._reader: Engine = self._engine
        self._writer: Engine = self._engine
        if self.is_sqlite:
            self._writer = self._engine.execution_options(begin="IMMEDIATE")
        else:
            # One snapshot for all that a view is put together from.
            snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            self._reader = self._engine.execution_options(**snapshot)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write: committed at the end of the block, rolled back when the block raises.

        Raises:
            Unavailable: the database is out of reach or stays locked for 10 s. When this is raised at the end of the
                block, the commit may or may not have happened.
            StorageFull: its disk is full.
        """
        with (
            self._turn,
            reaching(self._url),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and may not write.

        Raises:
            Unavailable: the database is out of reach.
        """
        with reaching(self._url), Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def ping(self) -> None:
        """Ask the database for an answer.

        Raises:
            Unavailable: there is none.
        """
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def hang_up(self) -> None:
        """End every connection that is in use, so that whoever waits for an answer on one gets Unavailable."""
        for connection in tuple(self._in_use):
            hang_up(connection)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


class _Turn(AbstractContextManager[None]):
    """One thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=BUSY_SECONDS):
            raise Unavailable(f"Other threads kept the database for {BUSY_SECONDS:g} s.", hint="Try again in a moment.")

    def __exit__(self, *failure: object) -> None:
        self._lock.release()


def upsert(
    session: Session, table: type[Stored], rows: Sequence[Mapping[str, Any]], *, key: Sequence[str], stamp: str = ""
) -> None:
    """Insert the rows; where `key` is taken already, overwrite the other columns given. `stamp` is set to now."""
    target = cast(Table, table.__table__)
    insert = sqlite.insert(target) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(target)
    if stamp:
        insert = insert.values({stamp: now_seconds()})
    given = {name: insert.excluded[name] for name in (*rows[0], *filter(None, [stamp])) if name not in key}
    # Rows as parameters keep the statement the same for any number of them, so it is compiled once.
    session.execute(insert.on_conflict_do_update(index_elements=list(key), set_=given), list(rows))
