"""Uploads, data sets, models that were brought along, trials of jobs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_KINDS = "kind IN ('distillation', 'latency'{more})"
_LIVE = "'running', 'pausing', 'cancelling'"


def upgrade() -> None:
    """Apply the change."""
    _change_jobs(more=", 'dataset', 'model', 'preflight'", change=_with_estimate)
    with op.batch_alter_table("models") as models:
        models.add_column(sa.Column("name", sa.String(length=200), nullable=False, server_default=""))
        models.add_column(sa.Column("source", _JSON, nullable=True))
        models.add_column(sa.Column("facts", _JSON, nullable=True))
        models.add_column(sa.Column("measured", _JSON, nullable=False, server_default="[]"))
        models.alter_column("accuracy", existing_type=sa.Double(), nullable=True)
        models.alter_column("weights_key", existing_type=sa.String(length=1024), nullable=True)
    _make_datasets()
    _make_uploads()


def downgrade() -> None:
    """Take the change back. What was brought along is gone."""
    for table in ("preflights", "upload_parts", "uploads", "datasets"):
        op.drop_table(table)
    op.execute("DELETE FROM models WHERE role = 'uploaded'")
    op.execute("DELETE FROM jobs WHERE kind IN ('dataset', 'model', 'preflight')")
    with op.batch_alter_table("models") as models:
        for column in ("name", "source", "facts", "measured"):
            models.drop_column(column)
        models.alter_column("accuracy", existing_type=sa.Double(), nullable=False)
        models.alter_column("weights_key", existing_type=sa.String(length=1024), nullable=False)
    _change_jobs(more="", change=_without_estimate)


def _change_jobs(*, more: str, change: Any) -> None:
    """SQLite alters a table by making it anew, and would forget what the partial indexes leave out."""
    op.drop_index("ix_jobs_claimable", "jobs")
    op.drop_index("ix_jobs_leases", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        change(jobs)
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), _KINDS.format(more=more))
    op.execute("CREATE INDEX ix_jobs_claimable ON jobs (queue, priority DESC, created_at, id) WHERE status = 'queued'")
    op.execute(f"CREATE INDEX ix_jobs_leases ON jobs (lease_expires_at) WHERE status IN ({_LIVE})")


def _with_estimate(jobs: Any) -> None:
    jobs.add_column(sa.Column("estimate", _JSON, nullable=True))


def _without_estimate(jobs: Any) -> None:
    jobs.drop_column("estimate")


def _make_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("facts", _JSON, nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("key", sa.String(length=1024), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_datasets_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index("ix_datasets_sha256", "datasets", ["sha256"])
    op.create_table(
        "preflights",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("result", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_preflights_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_preflights")),
    )


def _make_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("part_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_used_at", "uploads", ["used_at"])
    op.create_index("ix_uploads_sha256", "uploads", ["sha256"])
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.String(length=30), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("key", sa.String(length=1024), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id_uploads"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "number", name=op.f("pk_upload_parts")),
    )
