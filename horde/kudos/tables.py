"""The kudos books: a double-entry ledger and what is folded from it.

Entries are only ever added. Their foreign keys are left out on purpose: checking them would lock the
row of a busy account (the anonymous one above all) once per movement, and event and entries are always
written by one statement. `horde ledger check` finds what such keys would have refused.
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Numeric, String, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base

AMOUNT = Numeric(18, 2)


class Account(Base):
    """One purse: a user's spendable `balance`, a user's `escrow`, or a system account."""

    __tablename__ = "accounts"
    __table_args__ = (
        Index("uq_accounts_user_id_purpose", "user_id", "purpose", unique=True),
        CheckConstraint("purpose IN ('balance', 'escrow', 'treasury', 'burn')", name="purpose"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(start=10), primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    purpose: Mapped[str] = mapped_column(String(10))
    floor: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """Least kudos that a folded movement leaves here; NULL: no limit."""
    balance: Mapped[Decimal] = mapped_column(AMOUNT, server_default="0")
    """Sum of the folded entries."""


class LedgerEvent(Base):
    """Why kudos moved. The id is given by the cause (a job's id, a request's id), so it happens once."""

    __tablename__ = "ledger_events"

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    request_id: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    """The request whose reservation pays the debits of this event."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class LedgerEntry(Base):
    """One movement on one account; the entries of an event sum to zero."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        Index("ix_ledger_entries_unfolded", "account_id", postgresql_where=text("NOT folded")),
        # Nobody leafs through the entries of the two system accounts, which are in nearly every event.
        Index(
            "ix_ledger_entries_history",
            "account_id",
            "created",
            "event_id",
            postgresql_where=text("account_id > 2"),
        ),
        {"postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02"}},
    )

    event_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    action: Mapped[str | None] = mapped_column(String(20))
    """Key of the account's `kudos_details` that this counts under; NULL on system accounts."""
    folded: Mapped[bool] = mapped_column(server_default="false")
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    """The same in all entries of an event."""


class BooksCheck(Base):
    """What the nightly proof of the books found."""

    __tablename__ = "books_checks"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    entries: Mapped[int] = mapped_column(BigInteger)
    """How many entries there were."""
    broken: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """Rule that does not hold -> how many rows break it, up to 20; empty: the books are right."""


class KudosTotal(Base):
    """Folded kudos per account and action."""

    __tablename__ = "kudos_totals"

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    action: Mapped[str] = mapped_column(String(20), primary_key=True)
    amount: Mapped[Decimal] = mapped_column(AMOUNT, server_default="0")


class Reservation(Base):
    """Kudos set aside for one request that had to prove upfront that it can be paid."""

    __tablename__ = "reservations"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("remaining >= 0 AND remaining <= amount", name="remaining"),
    )

    request_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    remaining: Mapped[Decimal] = mapped_column(AMOUNT)
    """What is left after the request's folded debits."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class SharedKey(Base):
    """A key with which others spend the kudos of an account, within limits. Its id is the secret."""

    __tablename__ = "shared_keys"
    __table_args__ = (
        CheckConstraint("kudos >= 0 OR kudos = -1", name="kudos"),
        CheckConstraint("utilized >= 0", name="utilized"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    """The purse that pays: the owner's balance."""
    name: Mapped[str | None] = mapped_column(String(255))
    kudos: Mapped[Decimal] = mapped_column(AMOUNT)
    """What may still be spent, counting folded debits; -1: no limit, 0: nothing any more."""
    expires: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    max_image_pixels: Mapped[int] = mapped_column()
    """Largest image, as width times height; -1: no limit. The same goes for the other two."""
    max_image_steps: Mapped[int] = mapped_column()
    max_text_tokens: Mapped[int] = mapped_column()
    style_only: Mapped[bool] = mapped_column(server_default="false")
    """Whether nobody can spend it but requests with a style that it is attached to."""
    utilized: Mapped[Decimal] = mapped_column(AMOUNT, server_default="0")
    """What was spent so far, counting folded debits."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class SharedKeySpending(Base):
    """A request that was made with a shared key, kept while it can be charged.

    It has no foreign keys: folding locks spendings before keys, and deleting a key the other way round
    could end in a deadlock. The rows of a deleted key mean nothing.
    """

    __tablename__ = "shared_key_spending"
    __table_args__ = (CheckConstraint("hold >= 0", name="hold"),)

    request_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    shared_key_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), index=True)
    hold: Mapped[Decimal] = mapped_column(AMOUNT)
    """What the request is expected to cost; nobody else may spend it as long as the request lives."""
    spent: Mapped[Decimal] = mapped_column(AMOUNT, server_default="0")
    """Folded debits of the request."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
