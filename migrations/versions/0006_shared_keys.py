"""Keys with which others spend an account's kudos."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

AMOUNT = sa.Numeric(precision=18, scale=2)
TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "shared_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("kudos", AMOUNT, nullable=False),
        sa.Column("expires", TIME, nullable=True),
        sa.Column("max_image_pixels", sa.Integer(), nullable=False),
        sa.Column("max_image_steps", sa.Integer(), nullable=False),
        sa.Column("max_text_tokens", sa.Integer(), nullable=False),
        sa.Column("utilized", AMOUNT, server_default="0", nullable=False),
        sa.Column("created", TIME, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kudos >= 0 OR kudos = -1", name=op.f("ck_shared_keys_kudos")),
        sa.CheckConstraint("utilized >= 0", name=op.f("ck_shared_keys_utilized")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_shared_keys_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shared_keys")),
    )
    op.create_index("ix_shared_keys_account_id", "shared_keys", ["account_id"])
    op.create_table(
        "shared_key_spending",
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("shared_key_id", sa.UUID(), nullable=False),
        sa.Column("hold", AMOUNT, nullable=False),
        sa.Column("spent", AMOUNT, server_default="0", nullable=False),
        sa.Column("created", TIME, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("hold >= 0", name=op.f("ck_shared_key_spending_hold")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_shared_key_spending")),
    )
    op.create_index("ix_shared_key_spending_shared_key_id", "shared_key_spending", ["shared_key_id"])


def downgrade() -> None:
    op.drop_table("shared_key_spending")
    op.drop_table("shared_keys")
