"""The last good copy of each model reference."""

from datetime import datetime

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from horde.platform.database import Base


class StoredReference(Base):
    """The document of one kind that all nodes use, as it came. Refused entries follow from it."""

    __tablename__ = "model_references"

    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    """The setting that named it: a file or a URL."""
    fetched: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    """When it was last found to be current."""
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the document."""
    document: Mapped[bytes] = mapped_column(LargeBinary)
    failure: Mapped[str | None] = mapped_column(Text)
    """Why the newest refresh failed; NULL when it did not."""
