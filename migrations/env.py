"""How Alembic runs our migrations: on the connection that `store.migrate` hands over, or from the command line."""

import os

from alembic import context
from sqlalchemy import Connection, create_engine, make_url

from store.tables import Stored


def run(connection: Connection) -> None:
    """Run what Alembic was asked for on this connection."""
    context.configure(
        connection=connection,
        target_metadata=Stored.metadata,
        render_as_batch=True,  # SQLite alters a table by making it anew
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_from_command_line() -> None:
    """For developers: `alembic revision --autogenerate -m …`. Operators use `python -m store.migrate`."""
    url = make_url(os.environ["DISTILLERY_DATABASE_URL"])
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    with create_engine(url).begin() as connection:
        run(connection)


given = context.config.attributes.get("connection")
if given is None:
    run_from_command_line()
else:
    run(given)
