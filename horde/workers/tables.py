"""Tables of workers, their teams and the messages to them."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric, SmallInteger, String, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, UUID
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base


class Worker(Base):
    """A machine that takes jobs. Its settings are those of its last pop."""

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_last_seen", "kind", "last_seen"),)

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    info: Mapped[str | None] = mapped_column(String(1000))
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    last_seen: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    ipaddr: Mapped[str] = mapped_column(String(39))
    bridge_agent: Mapped[str] = mapped_column(Text)
    threads: Mapped[int] = mapped_column()

    models: Mapped[list[str]] = mapped_column(ARRAY(Text))
    blacklist: Mapped[list[str]] = mapped_column(ARRAY(Text))
    nsfw: Mapped[bool] = mapped_column()
    max_pixels: Mapped[int] = mapped_column(BigInteger)
    allow_img2img: Mapped[bool] = mapped_column()
    allow_painting: Mapped[bool] = mapped_column()
    allow_unsafe_ipaddr: Mapped[bool] = mapped_column()
    allow_post_processing: Mapped[bool] = mapped_column()
    allow_controlnet: Mapped[bool] = mapped_column()
    allow_sdxl_controlnet: Mapped[bool] = mapped_column()
    allow_lora: Mapped[bool] = mapped_column()
    limit_max_steps: Mapped[bool] = mapped_column()
    extra_slow_worker: Mapped[bool] = mapped_column()
    amount: Mapped[int | None] = mapped_column(SmallInteger)
    """Most jobs of one request that it takes at once; NULL until it says so."""

    maintenance: Mapped[bool] = mapped_column(server_default=text("false"))
    maintenance_message: Mapped[str | None] = mapped_column(String(300))
    paused: Mapped[bool] = mapped_column(server_default=text("false"))

    speed: Mapped[float] = mapped_column()
    """Mean raw things (pixelsteps, tokens) per second over its newest deliveries."""
    uptime: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Seconds."""
    fulfilments: Mapped[int] = mapped_column(BigInteger, server_default="0")
    contributions: Mapped[Decimal] = mapped_column(Numeric(24, 2), server_default="0")
    """Raw things delivered."""
    kudos_generated: Mapped[Decimal] = mapped_column(Numeric(18, 2), server_default="0")
    kudos_uptime: Mapped[Decimal] = mapped_column(Numeric(18, 2), server_default="0")
    uncompleted_jobs: Mapped[int] = mapped_column(server_default="0")
    uptime_rewarded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """As much of `uptime`, in seconds, as was rewarded or has lost its reward."""
    dropped: Mapped[int] = mapped_column(server_default="0")
    """Jobs lost within an hour of `dropping_since`."""
    dropping_since: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id", ondelete="SET NULL"), index=True)


class Team(Base):
    """Workers that count their contributions together."""

    __tablename__ = "teams"
    __table_args__ = (Index("uq_teams_name", text("lower(name)"), unique=True),)

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    info: Mapped[str] = mapped_column(String(1000), server_default="")
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    last_active: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    contributions: Mapped[Decimal] = mapped_column(Numeric(24, 2), server_default="0")
    """Raw things that its members delivered,"""
    fulfilments: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """and how many results that were."""
    kudos: Mapped[Decimal] = mapped_column(Numeric(18, 2), server_default="0")
    uptime: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Seconds for which its members were rewarded."""


class WorkerMessage(Base):
    """Something that a worker's software shows to whoever runs it."""

    __tablename__ = "worker_messages"
    __table_args__ = (
        Index("ix_worker_messages_worker_id", "worker_id", "expires"),
        Index("ix_worker_messages_user_id", "user_id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    worker_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workers.id", ondelete="CASCADE"))
    """NULL: for every worker."""
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    """Who wrote it."""
    message: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(String(255))
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    expires: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
