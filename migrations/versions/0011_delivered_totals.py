"""What was delivered of each model, by the hour."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivered_totals",
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("results", sa.BigInteger(), nullable=False),
        sa.Column("things", sa.Numeric(30, 0), nullable=False),
        sa.PrimaryKeyConstraint("hour", "kind", "model", name=op.f("pk_delivered_totals")),
    )


def downgrade() -> None:
    op.drop_table("delivered_totals")
