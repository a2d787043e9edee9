"""Table of workers."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric, String, Text, func, text
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
