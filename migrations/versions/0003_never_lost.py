"""Pause and resume, retries and clones, adjusted attempts, idempotency keys, webhooks."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_STATUSES = "status IN ('queued', 'running', {paused}'cancelling', 'succeeded', 'failed', 'crashed', 'cancelled')"
_LEASE = "status NOT IN ('running', {pausing}'cancelling') OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL)"


def upgrade() -> None:
    """Apply the change."""
    _drop_partial_indexes()
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("edition", sa.Integer(), nullable=False, server_default="1"))
        jobs.add_column(sa.Column("adjustments", _JSON, nullable=False, server_default="{}"))
        jobs.add_column(sa.Column("retry_of", sa.String(length=30), nullable=True))
        jobs.add_column(sa.Column("cloned_from", sa.String(length=30), nullable=True))
        jobs.create_foreign_key(op.f("fk_jobs_retry_of_jobs"), "jobs", ["retry_of"], ["id"], ondelete="SET NULL")
        jobs.create_index("ix_jobs_retry_of", ["retry_of"])
        _replace_checks(jobs, paused="'pausing', 'paused', ", pausing="'pausing', ")
    _make_partial_indexes("'running', 'pausing', 'cancelling'")
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("refused_writes", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("outbox") as outbox:
        outbox.drop_constraint(op.f("ck_outbox_kind"), type_="check")
        outbox.create_check_constraint(op.f("ck_outbox_kind"), "kind IN ('hint', 'delete', 'webhook')")
    _make_idempotency_keys()
    _make_webhooks()


def downgrade() -> None:
    """Take the change back. Paused jobs are queued, webhooks and their messages are gone."""
    op.execute("DELETE FROM outbox WHERE kind = 'webhook'")
    op.execute("UPDATE jobs SET status = 'queued' WHERE status = 'paused'")
    op.execute("UPDATE jobs SET status = 'running' WHERE status = 'pausing'")
    for table in ("deliveries", "webhooks", "idempotency_keys"):
        op.drop_table(table)
    with op.batch_alter_table("outbox") as outbox:
        outbox.drop_constraint(op.f("ck_outbox_kind"), type_="check")
        outbox.create_check_constraint(op.f("ck_outbox_kind"), "kind IN ('hint', 'delete')")
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_column("refused_writes")
    _drop_partial_indexes()
    op.drop_index("ix_jobs_retry_of", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("fk_jobs_retry_of_jobs"), type_="foreignkey")
        for column in ("edition", "adjustments", "retry_of", "cloned_from"):
            jobs.drop_column(column)
        _replace_checks(jobs, paused="", pausing="")
    _make_partial_indexes("'running', 'cancelling'")


def _drop_partial_indexes() -> None:
    """SQLite alters a table by making it anew, and would forget what these indexes leave out."""
    op.drop_index("ix_jobs_claimable", "jobs")
    op.drop_index("ix_jobs_leases", "jobs")


def _make_partial_indexes(live: str) -> None:
    op.execute("CREATE INDEX ix_jobs_claimable ON jobs (queue, priority DESC, created_at, id) WHERE status = 'queued'")
    op.execute(f"CREATE INDEX ix_jobs_leases ON jobs (lease_expires_at) WHERE status IN ({live})")


def _replace_checks(jobs: Any, *, paused: str, pausing: str) -> None:
    for name, condition in (("status", _STATUSES.format(paused=paused)), ("lease", _LEASE.format(pausing=pausing))):
        jobs.drop_constraint(op.f(f"ck_jobs_{name}"), type_="check")
        jobs.create_check_constraint(op.f(f"ck_jobs_{name}"), condition)


def _make_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("location", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _make_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("types", _JSON, nullable=False),
        sa.Column("secret", sa.String(length=120), nullable=False),
        sa.Column("previous_secret", sa.String(length=120), nullable=True),
        sa.Column("previous_until", sa.Double(), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("scope IN ('all', 'named')", name=op.f("ck_webhooks_scope")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_newest", "webhooks", ["created_at", "id"])
    op.create_index("ix_webhooks_url", "webhooks", ["url"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("webhook_id", sa.String(length=30), nullable=False),
        sa.Column("job_id", sa.String(length=30), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("tries", _JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.CheckConstraint("status IN ('waiting', 'delivered', 'failed')", name=op.f("ck_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_webhook_id", "deliveries", ["webhook_id", "created_at", "id"])
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
