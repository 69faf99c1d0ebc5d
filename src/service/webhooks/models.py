"""Webhooks and their deliveries."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class Webhook(Base):
    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("char_length(url) between 1 and 2000", name="url"),
        CheckConstraint("cardinality(events) > 0", name="events"),
        CheckConstraint("version >= 1", name="version"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    enabled: Mapped[bool] = mapped_column(Boolean)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    """`whsec_` and base64 (Standard Webhooks). It is not hashed, since signing needs it."""
    old_secret: Mapped[str | None] = mapped_column(Text)
    """The previous secret; it also signs until `old_secret_until`."""
    old_secret_until: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    older_secrets: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")
    """The secrets before `old_secret` that still sign: `{"secret": …, "until": …}`, newest first."""
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Delivery(Base):
    """One event to deliver to one webhook, created by a trigger in the event's transaction.

    There are no foreign keys: all transactions that record events would contend for locks on the row of
    the webhook.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("status in ('pending', 'delivered', 'failed')", name="status"),
        CheckConstraint("(status = 'pending') = (due_at is not null)", name="due_at"),
        Index(
            "ix_deliveries_webhook_id_due_at",
            "webhook_id",
            "due_at",
            postgresql_where=text("due_at is not null"),
        ),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True, server_default=func.uuidv7())
    webhook_id: Mapped[UUID] = mapped_column(PGUUID)
    event_id: Mapped[UUID] = mapped_column(PGUUID)
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    due_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    """The time of the next attempt. A claim moves it past the end of the attempt, as a lease."""
    tries: Mapped[int] = mapped_column(Integer, server_default="0")
    """The number of claims; a process that died left no attempt."""
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")
    """One `schemas.Attempt` per finished attempt."""
    finished_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
