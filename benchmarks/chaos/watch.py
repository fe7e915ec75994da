"""A witness inside the database that knows nothing of the code under test.

Triggers note, in the very transaction of the write, which attempt a checkpoint or artifact was written for and which
one the job was in, and each time that a job came to an end.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from distillery.views import TERMINAL
from store.db import Database

_FINAL = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_WRITTEN = "SELECT NEW.job_id, '{table}', NEW.attempt, attempt FROM jobs WHERE id = NEW.job_id"
_ENDED = "SELECT NEW.id, 'end', NEW.attempt, NEW.attempt"
_NOTE = "INSERT INTO witness (job_id, what, attempt, present)"


@dataclass(frozen=True)
class Seen:
    """What the witness has to tell. `stale`: a line for each write of an attempt after a later one had begun."""

    stale: list[str]
    ended_twice: list[str]
    writes: int


def begin(database: Database) -> None:
    """Make the table and the triggers."""
    number = "INTEGER PRIMARY KEY" if database.is_sqlite else "BIGSERIAL PRIMARY KEY"
    table = f"CREATE TABLE witness (n {number}, job_id TEXT, what TEXT, attempt INTEGER, present INTEGER)"
    triggers = _on_sqlite if database.is_sqlite else _on_postgres
    with database.transaction() as session:
        for statement in (table, *triggers()):
            session.connection().exec_driver_sql(statement)


def seen(session: Session) -> Seen:
    """All that was noted."""
    stale = session.execute(
        text("SELECT job_id, what, attempt, present FROM witness WHERE attempt < present ORDER BY n")
    )
    twice = text("SELECT job_id FROM witness WHERE what = 'end' GROUP BY job_id HAVING count(*) > 1")
    return Seen(
        stale=[f"{job} was in attempt {now} when attempt {then} wrote to {what}." for job, what, then, now in stale],
        ended_twice=list(session.scalars(twice)),
        writes=session.scalar(text("SELECT count(*) FROM witness")) or 0,
    )


def _on_sqlite() -> list[str]:
    written = [
        f"CREATE TRIGGER {verb}_{table} AFTER {verb} ON {table} BEGIN {_NOTE} {_WRITTEN.format(table=table)}; END"
        for table in ("checkpoints", "artifacts")
        for verb in ("INSERT", "UPDATE")
    ]
    ended = f"AFTER UPDATE OF status ON jobs WHEN NEW.status IN ({_FINAL}) BEGIN {_NOTE} {_ENDED}; END"
    return [*written, f"CREATE TRIGGER ended {ended}"]


def _on_postgres() -> list[str]:
    statements = []
    for name, noted in (
        ("checkpoints", _WRITTEN.format(table="checkpoints")),
        ("artifacts", _WRITTEN.format(table="artifacts")),
        ("jobs", _ENDED),
    ):
        body = f"BEGIN {_NOTE} {noted}; RETURN NULL; END"
        statements.append(f"CREATE FUNCTION note_{name}() RETURNS trigger LANGUAGE plpgsql AS $body$ {body} $body$")
        when = f"AFTER UPDATE OF status ON jobs FOR EACH ROW WHEN (NEW.status IN ({_FINAL}))"
        when = when if name == "jobs" else f"AFTER INSERT OR UPDATE ON {name} FOR EACH ROW"
        statements.append(f"CREATE TRIGGER note_{name} {when} EXECUTE FUNCTION note_{name}()")
    return statements
