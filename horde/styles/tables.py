"""Tables of styles, their examples and collections, and of uses that are not counted yet."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from horde.platform.database import Base


class Style(Base):
    """A prompt template with the models and parameters that go with it."""

    __tablename__ = "styles"
    __table_args__ = (
        Index("uq_styles_owner_id_name", "owner_id", "name", unique=True),
        Index("ix_styles_name", "name"),
        Index("ix_styles_shared_key_id", "shared_key_id"),
        Index("ix_styles_popular", "kind", text("use_count DESC"), "id", postgresql_where=text("public")),
        Index("ix_styles_age", "kind", "created", "id", postgresql_where=text("public")),
        CheckConstraint("kind IN ('image', 'text')", name="kind"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    """Who made it. The account may be wiped; the style stays."""
    name: Mapped[str] = mapped_column(String(100))
    """Unlike that of any other style of its owner, of whatever kind."""
    info: Mapped[str] = mapped_column(String(1000))
    prompt: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """Only what the style sets."""
    public: Mapped[bool] = mapped_column()
    """Whether it is listed; whoever knows its id or name may use it all the same."""
    nsfw: Mapped[bool] = mapped_column()
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    models: Mapped[list[str]] = mapped_column(ARRAY(Text))
    shared_key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("shared_keys.id", ondelete="SET NULL"))
    """A key of the owner's that pays for requests with the style as long as it can be used."""
    use_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Folded uses."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class StyleExample(Base):
    """A picture that shows what a style does."""

    __tablename__ = "style_examples"
    __table_args__ = (
        Index("uq_style_examples_style_id_url", "style_id", "url", unique=True),
        Index("uq_style_examples_primary", "style_id", unique=True, postgresql_where=text("is_primary")),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    style_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("styles.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    is_primary: Mapped[bool] = mapped_column()
    """Whether it is the one to show first; exactly one of a style's examples is."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Collection(Base):
    """A named set of styles of one kind."""

    __tablename__ = "collections"
    __table_args__ = (
        Index("uq_collections_owner_id_name", "owner_id", "name", unique=True),
        Index("ix_collections_name", "name"),
        Index("ix_collections_popular", text("use_count DESC"), "id", postgresql_where=text("public")),
        Index("ix_collections_age", "created", "id", postgresql_where=text("public")),
        CheckConstraint("kind IN ('image', 'text')", name="kind"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    """Of all of its styles."""
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(100))
    info: Mapped[str] = mapped_column(String(1000))
    public: Mapped[bool] = mapped_column()
    use_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Folded uses."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class CollectionStyle(Base):
    """A style that belongs to a collection."""

    __tablename__ = "collection_styles"

    collection_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    style_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("styles.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    position: Mapped[int] = mapped_column(SmallInteger)


class StyleUse(Base):
    """An accepted request with a style, until it is counted.

    Rows are only added by requests, so that those with a popular style never wait for each other. They have
    no foreign keys for the same reason.
    """

    __tablename__ = "style_uses"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    style_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    collection_id: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    """The collection that it was picked from."""
    kind: Mapped[str] = mapped_column(String(10))
    rewarded_id: Mapped[int | None] = mapped_column(BigInteger)
    """The style's owner, if the request was somebody else's."""
