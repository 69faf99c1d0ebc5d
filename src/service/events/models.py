"""The journal: one row per change, written in the transaction of the change.

A row is both an audit entry and an outbox message for webhooks. Rows are immutable (a trigger rejects updates
and deletes), and another trigger creates a delivery for every webhook subscribed to the event type.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base
from service.events.journal import Author


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("type ~ '^[a-z_]+[.][a-z_]+$'", name="type"),
        Index("ix_events_subject_id", "subject", "id"),
        Index("ix_events_actor_id", "actor", "id"),
        Index("ix_events_entity_id", text("split_part(type, '.', 1)"), "id"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True, server_default=func.uuidv7())
    """The receiver's `webhook-id`, the same for every attempt."""
    type: Mapped[str] = mapped_column(Text)
    """Entity type and action, such as `item.updated`."""
    subject: Mapped[str] = mapped_column(Text)
    """Id of the entity."""
    actor: Mapped[str] = mapped_column(Text)
    """API key id, `cli` or `worker`."""
    request_id: Mapped[str | None] = mapped_column(Text)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


def new_event(type_: str, subject: object, author: Author, payload: dict[str, Any]) -> Event:
    """Return an event for an ORM session; SQL statements insert theirs directly."""
    return Event(
        type=type_,
        subject=str(subject),
        actor=author.actor,
        request_id=author.request_id,
        payload=payload,
    )
