"""First tables, with the anonymous account and the system accounts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "generation_records",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("things", sa.BigInteger(), nullable=False),
        sa.Column("started", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column(
            "finished", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=False),
        sa.Column("kudos", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("client_agent", sa.Text(), nullable=False),
        sa.Column("bridge_agent", sa.Text(), nullable=False),
        sa.Column("folded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generation_records")),
    )
    op.create_index("ix_generation_records_finished", "generation_records", ["finished"], unique=False)
    op.create_index(
        "ix_generation_records_unfolded",
        "generation_records",
        ["id"],
        unique=False,
        postgresql_where=sa.text("NOT folded"),
    )
    op.create_index(
        "ix_generation_records_worker",
        "generation_records",
        ["worker_id", sa.literal_column("finished DESC")],
        unique=False,
    )
    op.create_table(
        "lanes",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("target", sa.UUID(), nullable=False),
        sa.Column("needs", postgresql.BIT(length=128), nullable=False),
        sa.Column("size_class", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lanes")),
    )
    op.create_index(
        "ix_lanes_match",
        "lanes",
        ["kind", "model", "target", "size_class"],
        unique=False,
        postgresql_include=["needs", "id"],
    )
    op.create_table(
        "ledger_entries",
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("line", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=True),
        sa.Column("folded", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("event_id", "line", name=op.f("pk_ledger_entries")),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02"},
    )
    op.create_index(
        "ix_ledger_entries_unfolded",
        "ledger_entries",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("NOT folded"),
    )
    op.create_table(
        "ledger_events",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=True),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_events")),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("expires", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("jobs", sa.SmallInteger(), nullable=False),
        sa.Column("n", sa.SmallInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("faulted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("models", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("lanes", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("workers", postgresql.ARRAY(sa.UUID()), nullable=False),
        sa.Column("worker_blacklist", sa.Boolean(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("things", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("ttl", sa.Integer(), nullable=False),
        sa.Column("price", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("tax", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("r2", sa.Boolean(), nullable=False),
        sa.Column("client_agent", sa.Text(), nullable=False),
        sa.Column("ipaddr", sa.String(length=39), nullable=False),
        sa.CheckConstraint("n >= 0 AND n <= jobs", name=op.f("ck_requests_n")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "500"},
    )
    op.create_index("ix_requests_expires", "requests", ["expires"], unique=False)
    op.create_index(
        "ix_requests_waiting", "requests", ["kind", "rank"], unique=False, postgresql_where=sa.text("n > 0")
    )
    op.create_index(
        "ix_requests_waiting_user",
        "requests",
        ["user_id", "rank"],
        unique=False,
        postgresql_where=sa.text("n > 0"),
    )
    op.create_table(
        "user_records",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.Numeric(precision=24, scale=2), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("user_id", "record", "kind", name=op.f("pk_user_records")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False, start=1, minvalue=0), nullable=False),
        sa.Column("username", sa.String(length=50), nullable=False),
        sa.Column("external_id", sa.String(length=50), nullable=False),
        sa.Column("api_key_hash", sa.String(length=64), nullable=True),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "last_active",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("contact", sa.Text(), nullable=True),
        sa.Column("admin_comment", sa.Text(), nullable=True),
        sa.Column("public_workers", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("worker_invited", sa.Integer(), server_default="0", nullable=False),
        sa.Column("usage_multiplier", sa.Numeric(precision=4, scale=2), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("api_key_hash", name=op.f("uq_users_api_key_hash")),
        sa.UniqueConstraint("external_id", name=op.f("uq_users_external_id")),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False, start=10), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("purpose", sa.String(length=10), nullable=False),
        sa.Column("floor", sa.Numeric(precision=18, scale=2), nullable=True),
        sa.Column("balance", sa.Numeric(precision=18, scale=2), server_default="0", nullable=False),
        sa.CheckConstraint(
            "purpose IN ('balance', 'escrow', 'treasury', 'burn')", name=op.f("ck_accounts_purpose")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_accounts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_index("uq_accounts_user_id_purpose", "accounts", ["user_id", "purpose"], unique=True)
    op.create_table(
        "jobs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), server_default="processing", nullable=False),
        sa.Column(
            "started", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("deadline", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("finished", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("seed", sa.Numeric(precision=24, scale=0), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("charged", sa.Numeric(precision=18, scale=2), nullable=True),
        sa.Column("reward", sa.Numeric(precision=18, scale=2), nullable=True),
        sa.CheckConstraint(
            "state IN ('processing', 'ok', 'censored', 'csam', 'faulted', 'aborted')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_jobs_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "500"},
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("state = 'processing'"),
    )
    op.create_index("ix_jobs_request_id", "jobs", ["request_id"], unique=False)
    op.create_table(
        "queue",
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["lane_id"], ["lanes.id"], name=op.f("fk_queue_lane_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_queue_request_id"), ondelete="CASCADE"
        ),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "500"},
    )
    op.execute(
        "ALTER TABLE queue ADD CONSTRAINT pk_queue PRIMARY KEY (lane_id, rank, request_id) INCLUDE (size)"
    )
    op.create_index("ix_queue_request_id", "queue", ["request_id"], unique=False)
    op.create_table(
        "user_roles",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column(
            "granted", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_user_roles_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "role", name=op.f("pk_user_roles")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("info", sa.String(length=1000), nullable=True),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "last_seen", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("ipaddr", sa.String(length=39), nullable=False),
        sa.Column("bridge_agent", sa.Text(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("models", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("blacklist", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("nsfw", sa.Boolean(), nullable=False),
        sa.Column("max_pixels", sa.BigInteger(), nullable=False),
        sa.Column("allow_img2img", sa.Boolean(), nullable=False),
        sa.Column("allow_painting", sa.Boolean(), nullable=False),
        sa.Column("allow_unsafe_ipaddr", sa.Boolean(), nullable=False),
        sa.Column("allow_post_processing", sa.Boolean(), nullable=False),
        sa.Column("allow_controlnet", sa.Boolean(), nullable=False),
        sa.Column("allow_sdxl_controlnet", sa.Boolean(), nullable=False),
        sa.Column("allow_lora", sa.Boolean(), nullable=False),
        sa.Column("limit_max_steps", sa.Boolean(), nullable=False),
        sa.Column("extra_slow_worker", sa.Boolean(), nullable=False),
        sa.Column("maintenance", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("maintenance_message", sa.String(length=300), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("speed", sa.Double(), nullable=False),
        sa.Column("uptime", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fulfilments", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("contributions", sa.Numeric(precision=24, scale=2), server_default="0", nullable=False),
        sa.Column("kudos_generated", sa.Numeric(precision=18, scale=2), server_default="0", nullable=False),
        sa.Column("kudos_uptime", sa.Numeric(precision=18, scale=2), server_default="0", nullable=False),
        sa.Column("uncompleted_jobs", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_workers_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        sa.UniqueConstraint("name", name=op.f("uq_workers_name")),
    )
    op.create_index("ix_workers_last_seen", "workers", ["kind", "last_seen"], unique=False)
    op.create_index(op.f("ix_workers_owner_id"), "workers", ["owner_id"], unique=False)
    op.create_table(
        "kudos_totals",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_kudos_totals_account_id")),
        sa.PrimaryKeyConstraint("account_id", "action", name=op.f("pk_kudos_totals")),
    )
    op.create_table(
        "reservations",
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("remaining", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column(
            "created", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_reservations_amount")),
        sa.CheckConstraint("remaining >= 0 AND remaining <= amount", name=op.f("ck_reservations_remaining")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_reservations_account_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_account_id"), "reservations", ["account_id"], unique=False)
    op.execute(
        "INSERT INTO users (id, username, external_id, concurrency, public_workers) "
        "VALUES (0, 'Anonymous', 'anon', 500, true)"
    )
    op.execute(
        "INSERT INTO accounts (id, user_id, purpose, floor) VALUES "
        "(1, NULL, 'treasury', NULL), (2, NULL, 'burn', NULL), (3, 0, 'balance', -50), (4, 0, 'escrow', NULL)"
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_reservations_account_id"), table_name="reservations")
    op.drop_table("reservations")
    op.drop_table("kudos_totals")
    op.drop_index(op.f("ix_workers_owner_id"), table_name="workers")
    op.drop_index("ix_workers_last_seen", table_name="workers")
    op.drop_table("workers")
    op.drop_table("user_roles")
    op.drop_index("ix_queue_request_id", table_name="queue")
    op.drop_table("queue")
    op.drop_index("ix_jobs_request_id", table_name="jobs")
    op.drop_index("ix_jobs_deadline", table_name="jobs", postgresql_where=sa.text("state = 'processing'"))
    op.drop_table("jobs")
    op.drop_index("uq_accounts_user_id_purpose", table_name="accounts")
    op.drop_table("accounts")
    op.drop_table("users")
    op.drop_table("user_records")
    op.drop_index("ix_requests_waiting_user", table_name="requests", postgresql_where=sa.text("n > 0"))
    op.drop_index("ix_requests_waiting", table_name="requests", postgresql_where=sa.text("n > 0"))
    op.drop_index("ix_requests_expires", table_name="requests")
    op.drop_table("requests")
    op.drop_table("ledger_events")
    op.drop_index(
        "ix_ledger_entries_unfolded", table_name="ledger_entries", postgresql_where=sa.text("NOT folded")
    )
    op.drop_table("ledger_entries")
    op.drop_index("ix_lanes_match", table_name="lanes")
    op.drop_table("lanes")
    op.drop_index("ix_generation_records_worker", table_name="generation_records")
    op.drop_index(
        "ix_generation_records_unfolded",
        table_name="generation_records",
        postgresql_where=sa.text("NOT folded"),
    )
    op.drop_index("ix_generation_records_finished", table_name="generation_records")
    op.drop_table("generation_records")
