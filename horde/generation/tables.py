"""Tables of the generation loop: requests, their jobs, and the queue's lanes."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Text,
    desc,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, BIT, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import Mapped, mapped_column

from horde.generation.rules import NEED_BITS
from horde.platform.database import Base

BUSY = {"postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "500"}}
"""Storage of tables whose rows come and go: dead rows must not pile up at the head of the queue."""


class Request(Base):
    """What somebody asked for: `jobs` results of one payload, `n` of which nobody has taken yet."""

    __tablename__ = "requests"
    __table_args__ = (
        Index("ix_requests_waiting", "kind", "rank", postgresql_where=text("n > 0")),
        Index("ix_requests_waiting_user", "user_id", "rank", postgresql_where=text("n > 0")),
        Index("ix_requests_user_id", "user_id"),
        Index("ix_requests_expires", "expires"),
        CheckConstraint("n >= 0 AND n <= jobs", name="n"),
        BUSY,
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    user_id: Mapped[int] = mapped_column(BigInteger)
    account_id: Mapped[int] = mapped_column(BigInteger)
    """The account that pays."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    expires: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    jobs: Mapped[int] = mapped_column(SmallInteger)
    n: Mapped[int] = mapped_column(SmallInteger)
    rank: Mapped[int] = mapped_column(BigInteger)
    """Order of service, lowest first (see `rules.rank`)."""
    faulted: Mapped[bool] = mapped_column(server_default=text("false"))
    cancelled: Mapped[bool] = mapped_column(server_default=text("false"))

    models: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """Acceptable models in the caller's order; empty: any."""
    lanes: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Ids of the lanes it stands in while `n` > 0."""
    workers: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(UUID(as_uuid=True)))
    """Workers that it asks for, or that it avoids if `worker_blacklist`."""
    worker_blacklist: Mapped[bool] = mapped_column()
    prompt: Mapped[str] = mapped_column(Text)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """What every worker receives, apart from the seed and the number of results."""
    options: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """What only the server reads; each kind has its own (see its `facts`)."""
    things: Mapped[int] = mapped_column(BigInteger)
    """Size of one result in raw units (pixelsteps or tokens), with the model that makes most of it."""
    size: Mapped[int] = mapped_column(BigInteger)
    """What a worker's largest size is compared with: pixels."""
    ttl: Mapped[int] = mapped_column()
    """Seconds that a worker has for one job."""
    price: Mapped[Decimal] = mapped_column(Numeric(18, 2))
    """Kudos for the work of one result, before the model's factor and what a model changes."""
    tax: Mapped[Decimal] = mapped_column(Numeric(18, 2))
    """Kudos paid when it was accepted."""
    r2: Mapped[bool] = mapped_column()
    client_agent: Mapped[str] = mapped_column(Text)
    ipaddr: Mapped[str] = mapped_column(String(39))
    proxied_account: Mapped[str | None] = mapped_column(String(255))
    """Whom a service account asks for, as the service calls them."""


class Job(Base):
    """One result of a request, handed to one worker."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_request_id", "request_id"),
        Index("ix_jobs_deadline", "deadline", postgresql_where=text("state = 'processing'")),
        CheckConstraint(
            "state IN ('processing', 'ok', 'censored', 'csam', 'faulted', 'aborted')", name="state"
        ),
        BUSY,
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("requests.id", ondelete="CASCADE"))
    worker_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    model: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), server_default="processing")
    """`processing`, delivered (`ok`, `censored`, `csam`), given back (`faulted`) or overdue (`aborted`)."""
    started: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    deadline: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    things: Mapped[int] = mapped_column(BigInteger)
    """Raw units, as those of its request, but with the settings that its model got."""
    value: Mapped[Decimal] = mapped_column(Numeric(18, 2))
    """Kudos that the work is worth, with the model's factor."""
    finished: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    seed: Mapped[int | None] = mapped_column(Numeric(24, 0))
    metadata_: Mapped[list[Any] | None] = mapped_column("metadata", JSONB)
    charged: Mapped[Decimal | None] = mapped_column(Numeric(18, 2))
    reward: Mapped[Decimal | None] = mapped_column(Numeric(18, 2))
    decoy: Mapped[bool] = mapped_column(server_default=text("false"))
    """It was given to a paused worker for show: nobody waits for it, pays for it or is paid."""
    batch: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    """How many jobs the worker took at once, this one among them."""


class Lane(Base):
    """All waiting requests that demand the same of a worker stand in one lane.

    The id is a hash of the other columns, so that whoever queues a request knows it without asking.
    """

    __tablename__ = "lanes"
    __table_args__ = (
        Index("ix_lanes_match", "kind", "model", "target", "size_class", postgresql_include=["needs", "id"]),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(20))
    model: Mapped[str] = mapped_column(Text)
    target: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    """The only worker that may serve it, or `rules.ANY_WORKER`."""
    needs: Mapped[str] = mapped_column(BIT(NEED_BITS))
    """One bit per rule of the kind's rule table: what a worker must offer."""
    size_class: Mapped[int] = mapped_column(SmallInteger)


class Queued(Base):
    """A waiting request's place in one lane; the primary key is the order of service."""

    __tablename__ = "queue"
    __table_args__ = (
        PrimaryKeyConstraint("lane_id", "rank", "request_id", postgresql_include=["size"]),
        Index("ix_queue_request_id", "request_id"),
        BUSY,
    )

    lane_id: Mapped[int] = mapped_column(ForeignKey("lanes.id"))
    rank: Mapped[int] = mapped_column(BigInteger)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("requests.id", ondelete="CASCADE"))
    size: Mapped[int] = mapped_column(BigInteger)


class GenerationRecord(Base):
    """One row per ended job, kept for good: statistics and people's records are folded from it."""

    __tablename__ = "generation_records"
    __table_args__ = (
        Index("ix_generation_records_unfolded", "id", postgresql_where=text("NOT folded")),
        Index("ix_generation_records_worker", "worker_id", desc("finished")),
        Index("ix_generation_records_finished", "finished"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    """The job's id."""
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10))
    model: Mapped[str] = mapped_column(Text)
    things: Mapped[int] = mapped_column(BigInteger)
    started: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    finished: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    user_id: Mapped[int] = mapped_column(BigInteger)
    owner_id: Mapped[int] = mapped_column(BigInteger)
    worker_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    kudos: Mapped[Decimal] = mapped_column(Numeric(18, 2))
    """Credited to the worker's owner."""
    client_agent: Mapped[str] = mapped_column(Text)
    bridge_agent: Mapped[str] = mapped_column(Text)
    folded: Mapped[bool] = mapped_column(server_default=text("false"))
    batch: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    """How many jobs the worker did at once."""
    team_id: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    """The worker's team when it delivered."""
    details: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    """What was asked for, for statistics; never the prompt itself."""


class ProblemJob(Base):
    """A result that a worker found to show abuse of children; kept to recognise who asks for such."""

    __tablename__ = "problem_jobs"
    __table_args__ = (
        Index("ix_problem_jobs_user_id", "user_id", "created"),
        Index("ix_problem_jobs_ipaddr", "ipaddr", "created"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    """The job's id."""
    user_id: Mapped[int] = mapped_column(BigInteger)
    ipaddr: Mapped[str] = mapped_column(String(43))
    """Address of the request; of IPv6 the network."""
    proxied_account: Mapped[str | None] = mapped_column(String(255))
    worker_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Outbox(Base):
    """A message for a requester's own server that has not been delivered yet."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_host_due", "host", "due"), BUSY)

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    """Whose turn it is; all hosts have equal ones."""
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    """JSON, as it will be sent."""
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    """Calls begun so far."""
    due: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    """When to call; while a call is under way, when to take it for lost."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
