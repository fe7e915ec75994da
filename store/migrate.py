"""Bring a database to the latest schema.

    python -m store.migrate [DATABASE_URL]        (default: $DISTILLERY_DATABASE_URL)

Safe to start several times at once: the first one migrates, the others wait for it and find nothing to do.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL

from distillery.errors import DistilleryError
from store.connections import connect, parse_url, reaching

if TYPE_CHECKING:  # Alembic is imported when it is needed: most processes never migrate
    from alembic.config import Config

MIGRATION_SECONDS = 600.0
LATEST = "0006"
"""The last revision in `migrations`: whoever serves asks for it often, and need not load Alembic for that."""
_VERSION = "alembic_version"
_ADVISORY_LOCK = 0x6469_7374  # "dist"


def migrate(url: str) -> None:
    """Upgrade the database to the latest revision, making the SQLite file and its folder if there are none.

    Raises:
        Unavailable: the database is out of reach.
    """
    from alembic import command

    parsed = parse_url(url)
    with reaching(parsed), _alone(parsed) as connection:
        configuration = _configuration()
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")


def pending_migrations(url: str) -> bool:
    """Whether the database is not at the latest revision.

    Raises:
        Unavailable: the database is out of reach.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return True
    engine = connect(parsed)
    try:
        with reaching(parsed), engine.connect() as connection:
            if not inspect(connection).has_table(_VERSION):
                return True
            return connection.execute(text(f"SELECT version_num FROM {_VERSION}")).scalars().all() != [LATEST]  # noqa: S608
    finally:
        engine.dispose()


def _configuration() -> "Config":
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", "migrations:")  # the package, wherever it is installed
    return configuration


@contextmanager
def _alone(url: URL) -> Iterator[Connection]:
    """A connection in a transaction beside which no other migration runs."""
    on_sqlite = url.get_backend_name() == "sqlite"
    # Foreign keys are off on SQLite: to rebuild a parent table would delete its children.
    engine = connect(url, statement_seconds=MIGRATION_SECONDS, foreign_keys=False)
    try:
        with (
            _file_lock(Path(url.database or "")) if on_sqlite else nullcontext(),
            engine.connect().execution_options(begin="IMMEDIATE") as connection,
            connection.begin(),
        ):
            if not on_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            yield connection
            if on_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                raise AssertionError(f"The migration left rows without their parents: {broken[:10]}.")
    finally:
        engine.dispose()


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    # BEGIN IMMEDIATE alone would not do: a new file is switched to WAL before any transaction.
    database.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{database}.migrating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Migrate the database given as the only argument, or by the environment; tells what went wrong on stderr."""
    url = arguments[0] if arguments else os.environ.get("DISTILLERY_DATABASE_URL", "")
    if len(arguments) > 1 or not url:
        print(__doc__, file=sys.stderr)  # noqa: T201 - the usage of a command
        return 2
    try:
        migrate(url)
    except DistilleryError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
