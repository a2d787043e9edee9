"""Tables of accounts, their roles and who changed them, and what speaks against accounts."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
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
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID
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
    concurrency_before_education: Mapped[int | None] = mapped_column()
    """What `concurrency` goes back to when the education role is taken away; NULL: it stays as it is."""
    worker_invited: Mapped[int] = mapped_column(server_default="0")
    usage_multiplier: Mapped[Decimal] = mapped_column(Numeric(4, 2), server_default="1")
    monthly_kudos: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """What administrators grant every month; moderators and supporters get more."""
    monthly_kudos_last_received: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    wiped: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    """Since when only the books know the account; nobody can find it or use it any more."""


class UserRole(Base):
    """A role that an account holds; absence means no."""

    __tablename__ = "user_roles"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(20), primary_key=True)
    granted: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class RoleChange(Base):
    """A role that was granted or taken away, for moderators to look up."""

    __tablename__ = "role_changes"
    __table_args__ = (Index("ix_role_changes_user_id", "user_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(String(20))
    held_before: Mapped[bool] = mapped_column()
    held: Mapped[bool] = mapped_column()
    changed_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    """NULL: the server itself, by its rules, or its operator at the command line."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class EducationApplication(Base):
    """A place of education that asks for the education role."""

    __tablename__ = "education_applications"
    __table_args__ = (
        Index("ix_education_applications_state", "state", "id"),
        Index(
            "uq_education_applications_open", "user_id", unique=True, postgresql_where=text("state = 'open'")
        ),
        CheckConstraint("state IN ('open', 'granted', 'refused')", name="state"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    institution: Mapped[str] = mapped_column(String(200))
    website: Mapped[str | None] = mapped_column(String(500))
    contact: Mapped[str] = mapped_column(String(500))
    purpose: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), server_default="open")
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    decided: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    decided_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    reason: Mapped[str | None] = mapped_column(Text)
    """What the applicant is told about the decision."""


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


class Supporter(Base):
    """An account whose owner gives money through `source` at present; rows of a source change together."""

    __tablename__ = "supporters"

    source: Mapped[str] = mapped_column(String(20), primary_key=True)
    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True, autoincrement=False
    )
    kudos: Mapped[int] = mapped_column(BigInteger)
    """A month."""
    name: Mapped[str | None] = mapped_column(Text)
    """How they want to be called on the sponsors' page,"""
    link: Mapped[str | None] = mapped_column(Text)
    """and where their name leads."""
