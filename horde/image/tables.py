"""Table of ratings of images."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base


class Rating(Base):
    """What a requester thinks of the images of one request; kept when the request expires."""

    __tablename__ = "ratings"

    request_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    """The request may be gone; it can only be rated once."""
    user_id: Mapped[int] = mapped_column(BigInteger)
    client_agent: Mapped[str] = mapped_column(Text)
    """The program that the ratings were sent with."""
    best: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    """The image that is best by the rules; NULL: the ratings do not tell."""
    ratings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    """`id`, `rating` and, if given, `artifacts` of each rated image."""
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
