"""Tables of accounts, their roles and what speaks against them."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base

ANONYMOUS_ID = 0


class User(Base):
    """An account. Id 0 is the anonymous one that everybody shares."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(start=1, minvalue=0), primary_key=True)
    username: Mapped[str] = mapped_column(String(50))
    external_id: Mapped[str] = mapped_column(String(50), unique=True)
    """Who vouches for the account: `anon`, a random UUID (pseudonymous), or a login provider's id."""
    api_key_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    proxy_passkey_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Of the passkey with which a service says for whom it calls."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    last_active: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    contact: Mapped[str | None] = mapped_column(Text)
    admin_comment: Mapped[str | None] = mapped_column(Text)
    public_workers: Mapped[bool] = mapped_column(server_default="false")
    concurrency: Mapped[int] = mapped_column()
    worker_invited: Mapped[int] = mapped_column(server_default="0")
    usage_multiplier: Mapped[Decimal] = mapped_column(Numeric(4, 2), server_default="1")


class UserRole(Base):
    """A role that an account holds; absence means no."""

    __tablename__ = "user_roles"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(20), primary_key=True)
    granted: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class UserRecord(Base):
    """What an account has asked for and contributed, folded from `generation_records`."""

    __tablename__ = "user_records"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    record: Mapped[str] = mapped_column(String(20), primary_key=True)
    """`usage`, `contribution` (raw things: pixelsteps or tokens), `request` or `fulfillment` (counts)."""
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(24, 2), server_default="0")


class Suspicion(Base):
    """Something that speaks against an account, or against one of its workers.

    What speaks against a worker speaks against its owner too, and stands here once for each.
    """

    __tablename__ = "suspicions"
    __table_args__ = (
        Index("ix_suspicions_user_id", "user_id"),
        Index(
            "uq_suspicions_once",
            "user_id",
            "worker_id",
            "reason",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("reason NOT IN (5, 9)"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    worker_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workers.id", ondelete="CASCADE"))
    """NULL: it counts for the account itself."""
    reason: Mapped[int] = mapped_column(SmallInteger)
    """See `rules.Reason`. All but 5 and 9 are noted once."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
