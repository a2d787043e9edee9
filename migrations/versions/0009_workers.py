"""Teams, messages, decoys, and what is counted of workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def _moment(name: str, *, default: bool = True) -> sa.Column[object]:
    column_type = postgresql.TIMESTAMP(timezone=True)
    return sa.Column(name, column_type, server_default=NOW if default else None, nullable=False)


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("info", sa.String(length=1000), server_default="", nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        _moment("created"),
        _moment("last_active"),
        sa.Column("contributions", sa.Numeric(24, 2), server_default="0", nullable=False),
        sa.Column("fulfilments", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("kudos", sa.Numeric(18, 2), server_default="0", nullable=False),
        sa.Column("uptime", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_teams_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
    )
    op.create_index("uq_teams_name", "teams", [sa.text("lower(name)")], unique=True)
    op.create_table(
        "worker_messages",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=255), nullable=False),
        _moment("created"),
        _moment("expires", default=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_worker_messages_user_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"],
            ["workers.id"],
            name=op.f("fk_worker_messages_worker_id_workers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker_messages")),
    )
    op.create_index("ix_worker_messages_worker_id", "worker_messages", ["worker_id", "expires"])
    op.create_index("ix_worker_messages_user_id", "worker_messages", ["user_id"])
    op.create_table(
        "problem_jobs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("ipaddr", sa.String(length=43), nullable=False),
        sa.Column("proxied_account", sa.String(length=255), nullable=True),
        sa.Column("worker_id", sa.UUID(), nullable=False),
        _moment("created"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_problem_jobs")),
    )
    op.create_index("ix_problem_jobs_user_id", "problem_jobs", ["user_id", "created"])
    op.create_index("ix_problem_jobs_ipaddr", "problem_jobs", ["ipaddr", "created"])
    op.add_column("workers", sa.Column("team_id", sa.UUID(), nullable=True))
    op.create_foreign_key(
        op.f("fk_workers_team_id_teams"), "workers", "teams", ["team_id"], ["id"], ondelete="SET NULL"
    )
    op.create_index(op.f("ix_workers_team_id"), "workers", ["team_id"])
    op.add_column(
        "workers", sa.Column("uptime_rewarded", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.execute("UPDATE workers SET uptime_rewarded = uptime")
    op.add_column("workers", sa.Column("dropped", sa.Integer(), server_default="0", nullable=False))
    op.add_column("workers", _moment("dropping_since"))
    op.add_column("jobs", sa.Column("decoy", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("jobs", sa.Column("batch", sa.SmallInteger(), server_default="1", nullable=False))
    op.add_column(
        "generation_records", sa.Column("batch", sa.SmallInteger(), server_default="1", nullable=False)
    )
    op.add_column("generation_records", sa.Column("team_id", sa.UUID(), nullable=True))
    op.add_column("generation_records", sa.Column("details", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for column in ("details", "team_id", "batch"):
        op.drop_column("generation_records", column)
    for column in ("batch", "decoy"):
        op.drop_column("jobs", column)
    for column in ("dropping_since", "dropped", "uptime_rewarded", "team_id"):
        op.drop_column("workers", column)
    for table in ("problem_jobs", "worker_messages", "teams"):
        op.drop_table(table)
