"""Styles, their examples and collections; shared keys that only styles may use."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
PUBLIC = sa.text("public")


def _id(name: str = "id", *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, postgresql.UUID(as_uuid=True), nullable=nullable)


def _created() -> sa.Column:
    return sa.Column("created", postgresql.TIMESTAMP(timezone=True), server_default=NOW, nullable=False)


def _use_count() -> sa.Column:
    return sa.Column("use_count", sa.BigInteger(), server_default="0", nullable=False)


def _kind(table: str) -> sa.CheckConstraint:
    return sa.CheckConstraint("kind IN ('image', 'text')", name=op.f(f"ck_{table}_kind"))


def upgrade() -> None:
    op.add_column(
        "shared_keys", sa.Column("style_only", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    _make_styles()
    _make_collections()
    op.create_table(
        "style_uses",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _id("style_id"),
        _id("collection_id", nullable=True),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("rewarded_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_style_uses")),
    )


def _make_styles() -> None:
    op.create_table(
        "styles",
        _id(),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("info", sa.String(length=1000), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("nsfw", sa.Boolean(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("models", postgresql.ARRAY(sa.Text()), nullable=False),
        _id("shared_key_id", nullable=True),
        _use_count(),
        _created(),
        _kind("styles"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_styles_owner_id")),
        sa.ForeignKeyConstraint(
            ["shared_key_id"], ["shared_keys.id"], name=op.f("fk_styles_shared_key_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_styles")),
    )
    op.create_index("uq_styles_owner_id_name", "styles", ["owner_id", "name"], unique=True)
    op.create_index("ix_styles_name", "styles", ["name"])
    op.create_index("ix_styles_shared_key_id", "styles", ["shared_key_id"])
    op.create_index(
        "ix_styles_popular", "styles", ["kind", sa.text("use_count DESC"), "id"], postgresql_where=PUBLIC
    )
    op.create_index("ix_styles_age", "styles", ["kind", "created", "id"], postgresql_where=PUBLIC)
    op.create_table(
        "style_examples",
        _id(),
        _id("style_id"),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        _created(),
        sa.ForeignKeyConstraint(
            ["style_id"], ["styles.id"], name=op.f("fk_style_examples_style_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_style_examples")),
    )
    op.create_index("uq_style_examples_style_id_url", "style_examples", ["style_id", "url"], unique=True)
    op.create_index(
        "uq_style_examples_primary",
        "style_examples",
        ["style_id"],
        unique=True,
        postgresql_where=sa.text("is_primary"),
    )


def _make_collections() -> None:
    op.create_table(
        "collections",
        _id(),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("info", sa.String(length=1000), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        _use_count(),
        _created(),
        _kind("collections"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_collections_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
    )
    op.create_index("uq_collections_owner_id_name", "collections", ["owner_id", "name"], unique=True)
    op.create_index("ix_collections_name", "collections", ["name"])
    op.create_index(
        "ix_collections_popular", "collections", [sa.text("use_count DESC"), "id"], postgresql_where=PUBLIC
    )
    op.create_index("ix_collections_age", "collections", ["created", "id"], postgresql_where=PUBLIC)
    op.create_table(
        "collection_styles",
        _id("collection_id"),
        _id("style_id"),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_collection_styles_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["style_id"], ["styles.id"], name=op.f("fk_collection_styles_style_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", "style_id", name=op.f("pk_collection_styles")),
    )
    op.create_index(op.f("ix_collection_styles_style_id"), "collection_styles", ["style_id"])


def downgrade() -> None:
    for table in ("style_uses", "collection_styles", "collections", "style_examples", "styles"):
        op.drop_table(table)
    op.drop_column("shared_keys", "style_only")
