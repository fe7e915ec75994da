"""Several teachers: room for all their names, and a job may leave several networks of one role."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    if op.get_bind().dialect.name != "sqlite":  # SQLite holds a text of any length in any column
        op.alter_column("jobs", "teacher", type_=sa.Text(), existing_nullable=False)
    with op.batch_alter_table("models") as models:
        models.drop_constraint(op.f("uq_models_job_id_role"), type_="unique")
        models.create_unique_constraint(op.f("uq_models_job_id_weights_key"), ["job_id", "weights_key"])


def downgrade() -> None:
    """Take the change back. Of several networks of one role the newest is kept, of a long text its beginning."""
    op.execute(
        "DELETE FROM models WHERE id NOT IN (SELECT id FROM (SELECT id, row_number() OVER "
        "(PARTITION BY job_id, role ORDER BY created_at DESC, id DESC) AS place FROM models) AS placed WHERE place = 1)"
    )
    with op.batch_alter_table("models") as models:
        models.drop_constraint(op.f("uq_models_job_id_weights_key"), type_="unique")
        models.create_unique_constraint(op.f("uq_models_job_id_role"), ["job_id", "role"])
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column(
            "jobs", "teacher", type_=sa.String(100), existing_nullable=False, postgresql_using="left(teacher, 100)"
        )
