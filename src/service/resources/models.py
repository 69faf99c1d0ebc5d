"""Tables of resources: simple records whose ids the client chooses."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Integer, Text, func
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base, Json


class Resource(Base):
    __tablename__ = "resources"
    __table_args__ = (
        CheckConstraint("id ~ '^[A-Za-z0-9._-]{1,64}$'", name="id"),
        CheckConstraint("char_length(status) between 1 and 64", name="status"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint("version >= 1", name="version"),
    )

    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    status: Mapped[str] = mapped_column(Text)
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", Json(none_as_null=True))
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Tombstone(Base):
    """The last version of a deleted resource, so that a new one under its id never reuses an `ETag`."""

    __tablename__ = "resource_tombstones"
    __table_args__ = (CheckConstraint("version >= 1", name="version"),)

    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
