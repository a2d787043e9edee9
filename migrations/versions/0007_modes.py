"""Modes, suspicions and proxy passkeys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "modes",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("maintenance", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("invite_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("raid", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_modes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_modes")),
    )
    op.execute("INSERT INTO modes (id) VALUES (1)")
    op.create_table(
        "suspicions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=True),
        sa.Column("reason", sa.SmallInteger(), nullable=False),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_suspicions_user_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name=op.f("fk_suspicions_worker_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suspicions")),
    )
    op.create_index("ix_suspicions_user_id", "suspicions", ["user_id"])
    op.create_index(
        "uq_suspicions_once",
        "suspicions",
        ["user_id", "worker_id", "reason"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("reason NOT IN (5, 9)"),
    )
    op.add_column("users", sa.Column("proxy_passkey_hash", sa.String(length=64), nullable=True))
    op.create_unique_constraint(op.f("uq_users_proxy_passkey_hash"), "users", ["proxy_passkey_hash"])


def downgrade() -> None:
    op.drop_column("users", "proxy_passkey_hash")
    op.drop_table("suspicions")
    op.drop_table("modes")
