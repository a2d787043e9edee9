"""Finding what a user has asked for, also when nothing of it waits any more."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_requests_user_id", "requests", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_requests_user_id", table_name="requests")
