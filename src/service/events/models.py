"""The outbox: what happened, written in the transaction in which it happened."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (CheckConstraint("type ~ '^[a-z_]+[.][a-z_]+$'", name="type"),)

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    """The id of what it happened to."""
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
