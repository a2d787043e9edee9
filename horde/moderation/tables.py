"""Table of prompt filters."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, SmallInteger, String, Text, func
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
