"""Tables of prompt filters and modes."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    SmallInteger,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base


class PromptFilter(Base):
    """An expression that moderators look for in prompts."""

    __tablename__ = "filters"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    regex: Mapped[str] = mapped_column(Text)
    filter_type: Mapped[int] = mapped_column(SmallInteger)
    """10 and 11: subjects; 20: contexts; up to 29: kept, and not used."""
    description: Mapped[str | None] = mapped_column(Text)
    replacement: Mapped[str] = mapped_column(String(255), server_default="")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    """The moderator who changed it last; NULL when that account is gone."""
    changed: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now(), onupdate=func.now()
    )


class ModesRow(Base):
    """Which modes of the whole horde are on; there is one row."""

    __tablename__ = "modes"
    __table_args__ = (CheckConstraint("id = 1", name="id"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    maintenance: Mapped[bool] = mapped_column(server_default=text("false"))
    invite_only: Mapped[bool] = mapped_column(server_default=text("false"))
    raid: Mapped[bool] = mapped_column(server_default=text("false"))
