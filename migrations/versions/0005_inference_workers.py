"""Processes that answer predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "inference_workers",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("url", sa.String(length=300), nullable=False),
        sa.Column("token", sa.String(length=100), nullable=False),
        sa.Column("alive_seconds", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inference_workers")),
    )


def downgrade() -> None:
    """Take the change back. Processes that live announce themselves again."""
    op.drop_table("inference_workers")
