"""Table of what was delivered."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, Numeric, PrimaryKeyConstraint, String, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base


class DeliveredTotal(Base):
    """Results of one model that were delivered in one full hour, folded from `generation_records`.

    Hours that no statistics ask for any more are added up in the hour of the epoch (1970).
    """

    __tablename__ = "delivered_totals"
    __table_args__ = (PrimaryKeyConstraint("hour", "kind", "model"),)

    hour: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    kind: Mapped[str] = mapped_column(String(20))
    model: Mapped[str] = mapped_column(Text)
    results: Mapped[int] = mapped_column(BigInteger)
    things: Mapped[Decimal] = mapped_column(Numeric(30, 0))
    """Raw units (pixelsteps, tokens)."""
