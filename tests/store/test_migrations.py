"""One history of migrations, for both databases."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, create_engine, inspect, text

import store.migrate
from store.connections import parse_url
from store.db import Database, migrate, pending_migrations
from store.migrate import main
from store.tables import Stored

REPOSITORY = Path(__file__).resolve().parents[2]
LATEST = max(path.name[:4] for path in (REPOSITORY / "migrations" / "versions").glob("[0-9]*.py"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables; on SQLite, without even its file and its folder."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'folder' / 'distillery.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
def plain(database_url: str) -> Iterator[Connection]:
    """A connection of SQLAlchemy's own making, beside ours."""
    engine = create_engine(parse_url(database_url))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_the_migrations_make_the_tables_as_they_are_declared(plain: Connection) -> None:
    context = MigrationContext.configure(plain, opts={"compare_type": True})
    assert compare_metadata(context, Stored.metadata) == []


def test_every_constraint_is_there_by_its_name(plain: Connection) -> None:
    for table in Stored.metadata.sorted_tables:
        declared = {str(each.name) for each in table.constraints if isinstance(each, CheckConstraint)}
        assert {each["name"] for each in inspect(plain).get_check_constraints(table.name)} == declared


def test_the_latest_revision_is_named_where_alembic_is_not_loaded() -> None:
    assert store.migrate.LATEST == LATEST


def test_an_empty_database_is_brought_up(empty_url: str) -> None:
    assert pending_migrations(empty_url)
    migrate(empty_url)
    assert not pending_migrations(empty_url)
    migrate(empty_url)
    database = Database(empty_url)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    database.close()


def test_an_older_database_is_seen_to_be_older(plain: Connection, database_url: str) -> None:
    plain.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    plain.commit()
    try:
        assert pending_migrations(database_url)
    finally:
        plain.execute(text("UPDATE alembic_version SET version_num = :latest"), {"latest": LATEST})
        plain.commit()


def test_processes_that_start_at_once_migrate_once(empty_url: str) -> None:
    command = [sys.executable, "-m", "store.migrate", empty_url]
    children = [subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate(timeout=250)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], answers
    assert not pending_migrations(empty_url)


@contextmanager
def taken_back(url: str, revision: str) -> Iterator[Connection]:
    """The database at an older revision, for as long as the block lasts; then it is brought up again."""
    from alembic import command

    from store.migrate import _alone, _configuration

    with _alone(parse_url(url)) as connection:
        configuration = _configuration()
        configuration.attributes["connection"] = connection
        command.downgrade(configuration, revision)
        yield connection
    migrate(url)
    assert not pending_migrations(url)


def test_the_migrations_can_be_taken_back(empty_url: str) -> None:
    migrate(empty_url)
    with taken_back(empty_url, "base") as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_going_back_to_one_teacher_keeps_the_job_and_its_newest_models(empty_url: str) -> None:
    migrate(empty_url)
    database = Database(empty_url)
    teachers = " + ".join(["resnet110"] * 16)
    with database.transaction() as session:
        session.execute(text(_A_JOB))
        session.execute(text("UPDATE jobs SET teacher = :teachers"), {"teachers": teachers})
        for name, role, at in (("mdl_1", "teacher", 1), ("mdl_2", "teacher", 2), ("mdl_3", "student", 2)):
            session.execute(text(_A_MODEL), {"id": name, "role": role, "key": f"{name}.safetensors", "at": at})
    with taken_back(empty_url, "0001") as connection:
        assert connection.execute(text("SELECT id FROM models ORDER BY id")).scalars().all() == ["mdl_2", "mdl_3"]
        kept = connection.execute(text("SELECT teacher FROM jobs")).scalar_one()
        assert kept == (teachers if empty_url.startswith("sqlite") else teachers[:100])
        names = {each["name"] for each in inspect(connection).get_unique_constraints("models")}
        assert names == {"uq_models_job_id_role"}
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM models")).scalar_one() == 2
    database.close()


def test_making_a_parent_table_anew_keeps_its_children(sqlite_url: str) -> None:
    from alembic.operations import Operations

    from store.migrate import _alone

    database = Database(sqlite_url)
    with database.transaction() as session:
        session.execute(text(_A_JOB))
        session.execute(text("INSERT INTO attempts (job_id, attempt, worker, started_at) VALUES ('job_1', 1, 'w', 0)"))
    database.close()
    with _alone(parse_url(sqlite_url)) as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("jobs", recreate="always") as batch:
            batch.alter_column("name", new_column_name="title")
    database = Database(sqlite_url)
    with database.read() as session:
        assert session.execute(text("SELECT title FROM jobs")).scalar_one() == "n"
        assert session.execute(text("SELECT count(*) FROM attempts")).scalar_one() == 1
    database.close()


_A_JOB = """
INSERT INTO jobs (id, kind, name, task, strategy, teacher, student, labels, queue, priority, sent, resolved, status,
  status_reason, not_before, hinted_at, attempt, crashes, stalled_crashes, preemptions, furthest_crash_step, step,
  phases, latest_metrics, last_seq, created_at, since, queued_seconds, running_seconds)
VALUES ('job_1', 'distillation', 'n', 't', 's', 'a', 'b', '{}', 'q', 1, '{}', '{}', 'queued',
  '', 0, 0, 0, 0, 0, 0, 0, 0, '[]', '{}', 1, 0, 0, 0, 0)
"""


_A_MODEL = """
INSERT INTO models (id, job_id, role, architecture, classes, image_size, channels, mean, std, accuracy, sha256,
  weights_key, created_at)
VALUES (:id, 'job_1', :role, 'a', '[]', 8, 1, '[]', '[]', 0.5, 'x', :key, :at)
"""


def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("DISTILLERY_DATABASE_URL", raising=False)
    assert main([]) == 2
    assert "python -m store.migrate" in capsys.readouterr().err
    assert main(["mysql://host/db"]) == 1
    assert "Postgres or SQLite" in capsys.readouterr().err
    monkeypatch.setenv("DISTILLERY_DATABASE_URL", str(tmp_path / "by environment.db"))
    assert main([]) == 0
    assert (tmp_path / "by environment.db").exists()


def test_developers_use_alembic_itself(sqlite_url: str) -> None:
    command = [sys.executable, "-m", "alembic", "--config", str(REPOSITORY / "alembic.ini"), "check"]
    environment = {"DISTILLERY_DATABASE_URL": sqlite_url, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout.strip()) == (0, "No new upgrade operations detected."), done.stderr
