"""Benchmarks of any models."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_KINDS = "kind IN ('distillation', 'latency', 'dataset', 'model', 'preflight'{more})"
_LIVE = "'running', 'pausing', 'cancelling'"


def upgrade() -> None:
    """Apply the change."""
    _change_kinds(more=", 'benchmark'")
    with op.batch_alter_table("benchmarks") as benchmarks:
        benchmarks.alter_column("job_id", existing_type=sa.String(length=30), nullable=True)
        benchmarks.add_column(sa.Column("models", _JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Take the change back. Benchmarks of any models are gone."""
    op.execute("DELETE FROM benchmarks WHERE job_id IS NULL")
    op.execute("DELETE FROM jobs WHERE kind = 'benchmark'")
    with op.batch_alter_table("benchmarks") as benchmarks:
        benchmarks.drop_column("models")
        benchmarks.alter_column("job_id", existing_type=sa.String(length=30), nullable=False)
    _change_kinds(more="")


def _change_kinds(*, more: str) -> None:
    """SQLite alters a table by making it anew, and would forget what the partial indexes leave out."""
    op.drop_index("ix_jobs_claimable", "jobs")
    op.drop_index("ix_jobs_leases", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), _KINDS.format(more=more))
    op.execute("CREATE INDEX ix_jobs_claimable ON jobs (queue, priority DESC, created_at, id) WHERE status = 'queued'")
    op.execute(f"CREATE INDEX ix_jobs_leases ON jobs (lease_expires_at) WHERE status IN ({_LIVE})")
