"""Who changed roles, places of education that apply, monthly kudos, and accounts that were wiped."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

MOMENT = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("users", sa.Column("concurrency_before_education", sa.Integer(), nullable=True))
    op.add_column("users", sa.Column("monthly_kudos", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("users", sa.Column("monthly_kudos_last_received", MOMENT, nullable=True))
    op.add_column("users", sa.Column("wiped", MOMENT, nullable=True))
    # Nobody noted what educators had before; nearly all had what every account begins with.
    op.execute("""
        UPDATE users SET concurrency_before_education = 30 WHERE concurrency = 200
            AND EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'education')
    """)
    op.create_table(
        "role_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("held_before", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("changed_by", sa.BigInteger(), nullable=True),
        sa.Column("created", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["changed_by"], ["users.id"], name=op.f("fk_role_changes_changed_by"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_role_changes_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_role_changes")),
    )
    op.create_index("ix_role_changes_user_id", "role_changes", ["user_id", "id"])
    _create_applications()


def _create_applications() -> None:
    op.create_table(
        "education_applications",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("institution", sa.String(length=200), nullable=False),
        sa.Column("website", sa.String(length=500), nullable=True),
        sa.Column("contact", sa.String(length=500), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), server_default="open", nullable=False),
        sa.Column("created", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("decided", MOMENT, nullable=True),
        sa.Column("decided_by", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'granted', 'refused')", name=op.f("ck_education_applications_state")
        ),
        sa.ForeignKeyConstraint(
            ["decided_by"],
            ["users.id"],
            name=op.f("fk_education_applications_decided_by"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_education_applications_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_education_applications")),
    )
    op.create_index("ix_education_applications_user_id", "education_applications", ["user_id"])
    op.create_index("ix_education_applications_state", "education_applications", ["state", "id"])
    op.create_index(
        "uq_education_applications_open",
        "education_applications",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("state = 'open'"),
    )


def downgrade() -> None:
    op.drop_table("education_applications")
    op.drop_table("role_changes")
    for column in ("wiped", "monthly_kudos_last_received", "monthly_kudos", "concurrency_before_education"):
        op.drop_column("users", column)
