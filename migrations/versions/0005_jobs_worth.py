"""Each job knows what it is worth, and each request whom it is for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("proxied_account", sa.String(length=255), nullable=True))
    op.add_column("jobs", sa.Column("things", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("value", sa.Numeric(precision=18, scale=2), nullable=True))
    op.execute(
        """
        UPDATE jobs SET things = request.things, value = coalesce(jobs.reward, request.price)
        FROM requests request WHERE request.id = jobs.request_id
        """
    )
    op.alter_column("jobs", "things", nullable=False)
    op.alter_column("jobs", "value", nullable=False)


def downgrade() -> None:
    op.drop_column("jobs", "value")
    op.drop_column("jobs", "things")
    op.drop_column("requests", "proxied_account")
