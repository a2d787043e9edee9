"""Supporters, checks of the books, and when entries were made."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "supporters",
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kudos", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("link", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_supporters_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source", "user_id", name=op.f("pk_supporters")),
    )
    op.create_index(op.f("ix_supporters_user_id"), "supporters", ["user_id"])
    op.create_table(
        "books_checks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("broken", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_books_checks")),
    )
    op.add_column(
        "ledger_entries",
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
    )
    op.execute(
        "UPDATE ledger_entries SET created = event.created FROM ledger_events event "
        "WHERE event.id = ledger_entries.event_id"
    )
    op.create_index(
        "ix_ledger_entries_history",
        "ledger_entries",
        ["account_id", "created", "event_id"],
        postgresql_where=sa.text("account_id > 2"),
    )


def downgrade() -> None:
    op.drop_index("ix_ledger_entries_history", table_name="ledger_entries")
    op.drop_column("ledger_entries", "created")
    op.drop_table("books_checks")
    op.drop_table("supporters")
