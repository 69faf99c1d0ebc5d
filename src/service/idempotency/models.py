"""Stored replies of idempotent requests."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class IdempotencyKey(Base):
    """A stored reply, written in the transaction of its effect; only successes are stored."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("key ~ '^[ -~]{1,255}$'", name="key"),
        CheckConstraint("status between 200 and 299", name="status"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    caller: Mapped[str] = mapped_column(Text, primary_key=True)
    """The id of the API key."""
    path: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Hash of the request body."""
    status: Mapped[int] = mapped_column(Integer)
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
